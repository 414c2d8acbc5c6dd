"""Threads that call functions for an event loop and can be replaced if one hangs."""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class FinishedCalls:
    """Results on their way from threads to an event loop; a single wake-up delivers all of them.

    Waking the loop costs a system call, so a thread skips it while a wake-up is pending. A thread
    appends its result before it reads the flag, and the loop clears the flag before it takes the
    results, so no result is left behind.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._results: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._is_waking = False

    def add(
        self, future: "asyncio.Future[Any]", result: Any, error: BaseException | None = None
    ) -> None:
        """Deliver a result or an error to its future; may be called in any thread."""
        self._results.append((future, result, error))
        if not self._is_waking:
            self._is_waking = True
            try:
                self.loop.call_soon_threadsafe(self._deliver)
            except RuntimeError:  # the loop is closed
                self._results.clear()
                self._is_waking = False

    def _deliver(self) -> None:
        self._is_waking = False
        while self._results:
            future, result, error = self._results.popleft()
            if future.done():
                continue
            if error is None:
                future.set_result(result)
            elif isinstance(error, asyncio.CancelledError):
                future.cancel()
            elif isinstance(error, StopIteration):  # which a future does not take
                future.set_exception(RuntimeError("a call raised StopIteration"))
            else:
                future.set_exception(error)


class WorkerThreads:
    """Calls functions in order, in a number of threads; belongs to one event loop at a time.

    Unlike in an executor, a thread that hangs can be replaced, and the process does not wait for
    the threads after `close`.
    """

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[
            tuple[Callable[[], Any], asyncio.Future[Any], FinishedCalls] | None
        ] = SimpleQueue()
        self._finished: FinishedCalls | None = None
        self._lock = threading.Lock()
        self._threads = 0
        self._running = 0
        self._is_closing = False
        self._has_ended = threading.Event()
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Start one more thread, in place of one that hangs."""
        self._threads += 1
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def remove(self) -> None:
        """End one thread once it is idle."""
        self._threads -= 1
        self._calls.put(None)

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Call a function in a thread, unless its future is cancelled before.

        The futures of calls that have not started when the threads are closed are cancelled.
        """
        loop = asyncio.get_running_loop()
        if self._finished is None or self._finished.loop is not loop:
            self._finished = FinishedCalls(loop)
        future: asyncio.Future[T] = loop.create_future()
        with self._lock:  # a call that is queued before the threads are closed is seen by one
            if self._is_closing:
                future.cancel()
            else:
                self._calls.put((function, future, self._finished))
        return future

    def close(self, seconds: float | None = None) -> bool:
        """Start no more calls and wait for the running ones; return whether all of them ended.

        The process would abort if it ended while a thread is in ONNX Runtime.
        """
        with self._lock:
            self._is_closing = True
            if self._running == 0:
                self._has_ended.set()
        for _ in range(self._threads):
            self.remove()
        return self._has_ended.wait(seconds)

    def _work(self) -> None:
        for function, future, finished in iter(self._calls.get, None):
            with self._lock:
                is_dropped = self._is_closing or future.cancelled()
                self._running += not is_dropped
            if is_dropped:
                finished.add(future, None, asyncio.CancelledError())
                continue
            result = error = None
            try:
                result = function()
            except BaseException as raised:
                error = raised
            finished.add(future, result, error)
            del function, future, result, error  # do not keep these until the next call
            with self._lock:
                self._running -= 1
                if self._is_closing and self._running == 0:
                    self._has_ended.set()
