import asyncio

import pytest

from service.engine.admission import Admission
from service.errors import DeadlineExceeded, QueueFull, ServerStopping
from tests.service.conftest import until


def admission(requests: int = 2, seconds: float = 10, body_bytes: int = 100) -> Admission:
    return Admission(requests, seconds, body_bytes)


async def test_one_more_than_the_bound_is_refused_and_told_when_to_return() -> None:
    door = admission(2)
    async with door.request() as first, door.request() as second:
        first.take_place()
        second.take_place()
        with pytest.raises(QueueFull) as caught:
            async with door.request():
                pass
        assert caught.value.retry_after_seconds >= 1
        assert (door.in_flight, door.receiving) == (2, 0)
    assert door.is_empty
    async with door.request() as third:
        third.take_place()
        assert door.in_flight == 1
    assert door.in_flight == 0


async def test_a_request_whose_body_arrives_takes_no_place() -> None:
    door = admission(1)
    async with door.request() as slow, door.request() as fast:
        assert (door.in_flight, door.receiving) == (0, 2)
        fast.take_place()
        assert (door.in_flight, door.receiving) == (1, 1)
        with pytest.raises(QueueFull, match="1 requests in flight"):
            slow.take_place()
    assert (door.in_flight, door.receiving) == (0, 0)


async def test_the_bodies_have_so_many_bytes_in_all() -> None:
    door = admission(2, body_bytes=100)
    async with door.request() as first, door.request() as second:
        first.take_bytes(150)
        second.take_bytes(50)
        with pytest.raises(QueueFull, match="200 bytes of bodies") as caught:
            second.take_bytes(1)
        assert caught.value.retry_after_seconds >= 1
    async with door.request() as third:
        third.take_bytes(200)  # what was taken is free again


async def test_what_waits_longer_than_the_deadline_ends() -> None:
    door = admission(seconds=0.01)
    with pytest.raises(DeadlineExceeded, match=r"within 0.01 s"):
        async with door.request():
            await asyncio.Event().wait()
    assert door.is_empty


async def test_a_timeout_of_the_works_own_is_not_the_deadline() -> None:
    with pytest.raises(TimeoutError):
        async with admission().request():
            raise TimeoutError


async def test_after_stop_no_newcomer_enters_but_those_inside_finish() -> None:
    door = admission()
    async with door.request() as inside:
        door.stop()
        with pytest.raises(ServerStopping):
            async with door.request():
                pass
        async with door.request(came_before_drain=True):
            assert door.receiving == 2
        inside.take_place()
        assert door.in_flight == 1


async def test_abort_ends_those_inside_and_nobody_enters() -> None:
    door = admission()

    async def wait() -> None:
        async with door.request() as admitted:
            admitted.take_place()
            await asyncio.Event().wait()

    tasks = [asyncio.create_task(wait()) for _ in range(2)]
    await until(lambda: door.in_flight == 2)
    door.abort()
    for task in tasks:
        with pytest.raises(ServerStopping):
            await task
    with pytest.raises(ServerStopping):
        async with door.request(came_before_drain=True):
            pass
