"""Functions run in order; every result reaches its event loop; a thread that hangs is replaced."""

import asyncio
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from service.runtime.worker_threads import FinishedCalls, WorkerThreads
from tests.service.conftest import until

PATIENCE = 20


@pytest.fixture
def workers() -> Iterator[WorkerThreads]:
    workers = WorkerThreads(1, "test")
    yield workers
    assert workers.close(PATIENCE)


class Blocker:
    """A function that returns when it is released."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self.begun = threading.Event()
        self.released = threading.Event()

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.begun.set()
        assert self.released.wait(PATIENCE)
        return "released"


async def test_functions_run_in_order(workers):
    order = []
    for number in range(5):
        last = workers.run(lambda number=number: order.append(number))
    await last
    assert order == [0, 1, 2, 3, 4]


async def test_results_and_errors_reach_their_futures(workers):
    assert await workers.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)

    def cancel() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await workers.run(cancel)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await workers.run(lambda: next(iter([])))
    assert await workers.run(lambda: "still running") == "still running"


async def test_a_call_whose_future_is_cancelled_never_starts(workers):
    blocker, started = Blocker(), []
    first = workers.run(blocker)
    assert blocker.begun.wait(PATIENCE)
    dropped = workers.run(lambda: started.append(True))
    dropped.cancel()
    blocker.released.set()
    assert await first == "released"
    assert await workers.run(lambda: "next") == "next"
    assert started == []


async def test_the_result_for_a_cancelled_future_is_dropped(workers):
    blocker = Blocker()
    left = workers.run(blocker)
    assert blocker.begun.wait(PATIENCE)
    left.cancel()
    blocker.released.set()
    assert await workers.run(lambda: "next") == "next"
    assert left.cancelled()


async def test_many_threads_lose_no_result():
    workers = WorkerThreads(4, "test")
    for _ in range(20):
        results = asyncio.gather(*(workers.run(lambda n=n: n) for n in range(500)))
        assert await asyncio.wait_for(results, PATIENCE) == list(range(500))
    assert workers.close(PATIENCE)


async def test_a_hanging_thread_is_replaced_and_one_of_the_two_ends_after_it(workers):
    blocker = Blocker()
    hanging = workers.run(blocker)
    assert blocker.begun.wait(PATIENCE)
    workers.add()
    replacement = await workers.run(threading.current_thread)
    assert replacement is not blocker.thread
    blocker.released.set()
    assert await hanging == "released"
    workers.remove()
    threads = {replacement, blocker.thread}
    await until(lambda: not all(thread.is_alive() for thread in threads))
    (left,) = (thread for thread in threads if thread.is_alive())
    assert await workers.run(threading.current_thread) is left


async def test_threads_are_daemons_so_that_none_keeps_the_process_alive(workers):
    assert (await workers.run(threading.current_thread)).daemon


async def test_closing_waits_for_running_calls_and_cancels_the_others(workers):
    blocker, started = Blocker(), []
    running = workers.run(blocker)
    assert blocker.begun.wait(PATIENCE)
    waiting = workers.run(lambda: started.append(True))
    assert not workers.close(0)
    blocker.released.set()
    assert workers.close(PATIENCE)
    assert await running == "released"
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await workers.run(lambda: started.append(True))
    assert started == []


async def test_closed_threads_end(workers):
    thread = await workers.run(threading.current_thread)
    assert workers.close(PATIENCE)
    await asyncio.to_thread(thread.join, PATIENCE)
    assert not thread.is_alive()


async def test_a_call_is_released_before_it_counts_as_ended(workers):
    blocker = Blocker()
    gone = weakref.ref(blocker)
    running = workers.run(blocker)
    assert blocker.begun.wait(PATIENCE)
    blocker.released.set()
    del blocker
    assert workers.close(PATIENCE)
    assert gone() is None
    assert await running == "released"


def test_a_result_for_a_closed_loop_is_dropped(workers):
    blocker = Blocker()

    async def start() -> asyncio.Future[str]:
        return workers.run(blocker)

    future = asyncio.run(start())
    blocker.released.set()

    async def next_result() -> str:
        return await workers.run(lambda: "next")

    assert asyncio.run(next_result()) == "next"
    assert not future.done()


class FakeLoop:
    """Remembers the callbacks that it is to be woken for."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []
        self.is_closed = False

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        if self.is_closed:
            raise RuntimeError("Event loop is closed")
        self.callbacks.append(callback)


class FakeFuture:
    """Keeps its result; may do something else when it gets one."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.result: object = None
        self._then = then

    def done(self) -> bool:
        return self.result is not None

    def set_result(self, result: object) -> None:
        self.result = result
        self._then()


def test_one_wake_up_delivers_all_results_that_are_ready():
    loop, futures = FakeLoop(), [FakeFuture() for _ in range(3)]
    finished = FinishedCalls(loop)
    for number, future in enumerate(futures):
        finished.add(future, number)
    (deliver,) = loop.callbacks
    deliver()
    assert [future.result for future in futures] == [0, 1, 2]
    later = FakeFuture()
    finished.add(later, "later")
    loop.callbacks[1]()
    assert later.result == "later"


def test_a_result_added_during_delivery_wakes_the_loop_again():
    """The delivery may have looked for results for the last time when the thread adds one."""
    loop, late = FakeLoop(), FakeFuture()
    finished = FinishedCalls(loop)
    finished.add(FakeFuture(then=lambda: finished.add(late, "late")), "first")
    loop.callbacks[0]()
    assert late.result == "late"
    assert len(loop.callbacks) == 2
    loop.callbacks[1]()


def test_results_for_a_closed_loop_are_not_kept():
    loop, future = FakeLoop(), FakeFuture()
    finished = FinishedCalls(loop)
    loop.is_closed = True
    gone = weakref.ref(future)
    for _ in range(2):
        finished.add(future, "result")
    del future
    assert gone() is None
