import asyncio

import pytest

from service.engine.admission import Admission
from service.errors import DeadlineExceeded, QueueFull, ServerStopping


def admission(requests: int = 2, body_bytes: int = 100) -> Admission:
    return Admission(requests, 10, body_bytes)


def enter(door: Admission, *, came_before_drain: bool = False) -> asyncio.Timeout:
    timeout = asyncio.timeout(None)
    door.enter(timeout, came_before_drain=came_before_drain)
    return timeout


async def test_a_request_beyond_the_limit_is_refused_with_a_time_to_return() -> None:
    door = admission(2)
    requests = [enter(door), enter(door)]
    for _ in requests:
        door.take_place()
    with pytest.raises(QueueFull, match="2 requests in flight") as caught:
        enter(door)
    assert caught.value.retry_after_seconds >= 1
    assert (door.in_flight, door.receiving, door.is_empty) == (2, 0, False)
    for each in requests:
        door.leave(each, 0, 0.5)
    assert (door.in_flight, door.is_empty) == (0, True)
    enter(door)


async def test_a_request_whose_body_is_arriving_is_not_in_flight() -> None:
    door = admission(1)
    slow, fast = enter(door), enter(door)
    assert (door.in_flight, door.receiving) == (0, 2)
    door.take_place()
    assert (door.in_flight, door.receiving) == (1, 1)
    with pytest.raises(QueueFull, match="1 requests in flight"):
        door.take_place()
    door.leave(slow, 0, None)
    door.leave(fast, 0, 0.1)
    assert (door.in_flight, door.receiving) == (0, 0)


async def test_all_bodies_together_are_bounded_and_their_bytes_given_back() -> None:
    door = admission(2, body_bytes=100)
    first = enter(door)
    door.take_bytes(150)
    door.take_bytes(50)
    with pytest.raises(QueueFull, match="200 bytes of request bodies") as caught:
        door.take_bytes(1)
    assert caught.value.retry_after_seconds >= 1
    door.leave(first, 200, None)
    door.take_bytes(200)


async def test_retry_after_follows_how_long_requests_were_in_flight() -> None:
    door = admission(1)
    first = enter(door)
    door.take_place()
    door.leave(first, 0, 32.4)
    enter(door)
    door.take_place()
    with pytest.raises(QueueFull) as caught:
        enter(door)
    assert caught.value.retry_after_seconds == 33


async def test_after_stop_only_requests_on_earlier_connections_are_admitted() -> None:
    door = admission()
    enter(door)
    door.stop()
    with pytest.raises(ServerStopping):
        enter(door)
    enter(door, came_before_drain=True)
    assert door.receiving == 2
    door.take_place()
    assert door.in_flight == 1


async def test_abort_expires_requests_in_flight_and_rejects_new_ones() -> None:
    door = admission()
    timeouts = [enter(door), enter(door)]

    async def wait(allowed: asyncio.Timeout) -> None:
        async with allowed:
            entered.release()
            await asyncio.Event().wait()

    entered = asyncio.Semaphore(0)
    tasks = [asyncio.create_task(wait(each)) for each in timeouts]
    for _ in tasks:
        await entered.acquire()
    door.abort()
    for task in tasks:
        with pytest.raises(TimeoutError):
            await task
    assert isinstance(door.late(1), ServerStopping)
    with pytest.raises(ServerStopping):
        enter(door, came_before_drain=True)


def test_the_error_of_a_late_request_states_its_time_limit() -> None:
    door = admission()
    for seconds, words in ((0.01, "0.01 s"), (30, "30 s"), (1.5, "1.5 s"), (1e-6, "0.000001 s")):
        error = door.late(seconds)
        assert isinstance(error, DeadlineExceeded)
        assert str(error) == f"The response was not ready within {words}."
