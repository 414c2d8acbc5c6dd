import asyncio

import pytest

from service.admission import Admission
from service.errors import DeadlineExceeded, QueueFull, ServerStopping
from tests.service.conftest import until


async def test_one_more_than_the_bound_is_refused_and_told_when_to_return() -> None:
    admission = Admission(2, 10)
    async with admission.request(), admission.request():
        with pytest.raises(QueueFull) as caught:
            async with admission.request():
                pass
        assert caught.value.retry_after_seconds >= 1
    assert admission.in_flight == 0
    async with admission.request():
        assert admission.in_flight == 1


async def test_what_waits_longer_than_the_deadline_ends() -> None:
    admission = Admission(2, 0.01)
    with pytest.raises(DeadlineExceeded, match=r"within 0.01 s"):
        async with admission.request():
            await asyncio.Event().wait()
    assert admission.in_flight == 0


async def test_a_timeout_of_the_works_own_is_not_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with Admission(2, 10).request():
            raise TimeoutError


async def test_after_stop_nobody_enters_but_those_inside_finish() -> None:
    admission = Admission(2, 10)
    async with admission.request():
        admission.stop()
        with pytest.raises(ServerStopping):
            async with admission.request():
                pass
        assert admission.in_flight == 1


async def test_abort_ends_those_inside() -> None:
    admission = Admission(2, 10)

    async def wait() -> None:
        async with admission.request():
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(wait()) for _ in range(2)]
    await until(lambda: admission.in_flight == 2)
    admission.abort()
    for task in tasks:
        with pytest.raises(ServerStopping):
            await task
