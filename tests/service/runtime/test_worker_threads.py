"""Threads that outlive a call that hangs."""

import asyncio
import threading
import weakref

import pytest

from service.runtime.worker_threads import WorkerThreads

PATIENCE = 20


def test_calls_are_made_in_order_by_as_many_threads_as_there_are():
    workers, done, order = WorkerThreads(1, "test"), threading.Event(), []
    for number in range(5):
        workers.submit(lambda number=number: order.append(number))
    workers.submit(done.set)
    assert done.wait(PATIENCE)
    assert order == [0, 1, 2, 3, 4]
    workers.remove()


def test_a_thread_that_hangs_is_replaced_and_its_place_given_up_when_it_ends():
    workers, hanging, done = WorkerThreads(1, "test"), threading.Event(), threading.Event()
    threads = []
    workers.submit(lambda: (threads.append(threading.current_thread()), hanging.wait(PATIENCE)))
    workers.add()
    workers.submit(lambda: (threads.append(threading.current_thread()), done.set()))
    assert done.wait(PATIENCE)
    hanging.set()
    workers.remove()
    workers.remove()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def test_no_thread_keeps_the_process():
    workers, seen = WorkerThreads(1, "test"), threading.Event()
    daemons = []
    workers.submit(lambda: (daemons.append(threading.current_thread().daemon), seen.set()))
    assert seen.wait(PATIENCE)
    assert daemons == [True]
    workers.remove()


def test_at_the_end_what_runs_is_waited_for_and_what_waits_is_never_begun():
    workers, begun, go_on = WorkerThreads(1, "test"), threading.Event(), threading.Event()
    made = []
    workers.submit(lambda: (begun.set(), go_on.wait(PATIENCE), made.append("first")))
    workers.submit(lambda: made.append("second"))
    assert begun.wait(PATIENCE)
    assert not workers.close(0)
    go_on.set()
    assert workers.close(PATIENCE)
    assert made == ["first"]
    workers.submit(lambda: made.append("third"))
    assert workers.close(PATIENCE)
    assert made == ["first"]
    workers.remove()


def test_what_a_call_held_is_free_once_it_is_said_to_have_ended():
    class Held:
        def __call__(self) -> None:
            begun.set()

    workers, begun, held = WorkerThreads(1, "test"), threading.Event(), Held()
    gone = weakref.ref(held)
    workers.submit(held)
    del held
    assert begun.wait(PATIENCE)
    assert workers.close(PATIENCE)
    assert gone() is None
    workers.remove()


async def test_what_a_call_returns_or_raises_comes_to_the_event_loop():
    workers = WorkerThreads(1, "test")
    assert await workers.run(lambda: 42) == 42
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)
    with pytest.raises(asyncio.CancelledError):
        await workers.run(cancel)
    left = workers.run(lambda: 1)
    left.cancel()
    assert await workers.run(lambda: 2) == 2
    workers.remove()


def cancel():
    raise asyncio.CancelledError
