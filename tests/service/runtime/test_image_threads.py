import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from service.runtime.image_threads import ImageThreads
from tests.service.conftest import until


@pytest.fixture
def one_thread() -> Iterator[ImageThreads]:
    threads = ImageThreads(1)
    yield threads
    threads.close()


async def test_results_come_in_the_order_of_the_calls(one_thread: ImageThreads) -> None:
    squares = await one_thread.gather(partial(pow, n, 2) for n in range(5))
    assert squares == [0, 1, 4, 9, 16]


async def test_no_calls_give_no_results(one_thread: ImageThreads) -> None:
    assert await one_thread.gather([]) == []


async def test_arguments_are_passed_on(one_thread: ImageThreads) -> None:
    assert await one_thread.run(int, "ff", base=16) == 255


async def test_the_first_failure_drops_the_calls_that_have_not_started(
    one_thread: ImageThreads,
) -> None:
    go_on, done = threading.Event(), []

    def fail() -> None:
        raise ValueError("no")

    calls = [partial(done.append, 1), fail, partial(go_on.wait, 20), partial(done.append, 2)]
    with pytest.raises(ValueError, match="no"):
        await one_thread.gather(calls)
    go_on.set()
    await one_thread.run(int)
    assert done == [1]


@pytest.mark.parametrize("count", [1, 3])
async def test_calls_whose_caller_left_never_start(one_thread: ImageThreads, count: int) -> None:
    begun, go_on, done = threading.Event(), threading.Event(), []
    holding = asyncio.create_task(one_thread.run(lambda: (begun.set(), go_on.wait(20))))
    assert await asyncio.to_thread(begun.wait, 20)
    waiting = asyncio.create_task(one_thread.gather([partial(done.append, 1)] * count))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    go_on.set()
    await holding
    await one_thread.run(int)
    assert done == []


async def test_closing_waits_for_running_calls_and_cancels_the_others() -> None:
    threads, begun, go_on, done = ImageThreads(1), threading.Event(), threading.Event(), []
    running = asyncio.create_task(threads.run(lambda: (begun.set(), go_on.wait(20))))
    assert await asyncio.to_thread(begun.wait, 20)
    waiting = asyncio.create_task(threads.run(done.append, 1))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(threads.close))
    await until(lambda: threads._workers._is_closing)
    go_on.set()
    await closing
    await running
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert done == []
