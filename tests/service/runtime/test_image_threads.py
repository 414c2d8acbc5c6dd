import asyncio
import threading
from functools import partial

import pytest

from service.runtime.image_threads import ImageThreads


@pytest.fixture
def pool() -> ImageThreads:
    pool = ImageThreads(1)
    yield pool
    pool.close()


async def test_results_come_in_the_order_of_the_calls(pool: ImageThreads) -> None:
    assert await pool.gather(partial(pow, n, 2) for n in range(20)) == [n * n for n in range(20)]


async def test_arguments_are_passed_on(pool: ImageThreads) -> None:
    assert await pool.run(int, "ff", base=16) == 255


async def test_the_first_failure_drops_what_has_not_started(pool: ImageThreads) -> None:
    go_on, done = threading.Event(), []

    def fail() -> None:
        raise ValueError("no")

    calls = [partial(done.append, 1), fail, partial(go_on.wait, 10), partial(done.append, 2)]
    with pytest.raises(ValueError, match="no"):
        await pool.gather(calls)
    await asyncio.sleep(0)
    go_on.set()
    await pool.run(int)
    assert done == [1]


async def test_work_that_nobody_waits_for_never_starts(pool: ImageThreads) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []
    holding = asyncio.create_task(pool.run(lambda: (begun.set(), go_on.wait(10))))
    await asyncio.to_thread(begun.wait, 10)
    waiting = asyncio.create_task(pool.gather([partial(done.append, 1)] * 3))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await holding
    await pool.run(int)
    assert done == []
