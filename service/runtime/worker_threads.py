"""The threads in which executions run, one for every slot of a device, and models are opened."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class WorkerThreads:
    """Calls what is submitted, in order; a call must not raise.

    Unlike an executor's, these threads may be replaced when one hangs, and at the process's end
    they are waited for no longer than one likes.
    """

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ended = threading.Condition()
        self._running = 0
        self._closing = False
        for _ in range(count):
            self.add()

    def add(self) -> None:
        """Start one more thread, in the place of one that hangs."""
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def remove(self) -> None:
        """Let one thread end once it comes to it."""
        self._calls.put(None)

    def submit(self, call: Callable[[], None]) -> None:
        """Have a thread call this as soon as one is free."""
        self._calls.put(call)

    def run(self, function: Callable[[], T]) -> "asyncio.Future[T]":
        """Have a thread call this; its result or exception comes to the event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def call() -> None:
            try:
                result = function()
            except BaseException as error:
                tell(_fail, future, error)
            else:
                tell(_succeed, future, result)

        def tell(settle: Callable[..., None], *arguments: object) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits for this any more
                loop.call_soon_threadsafe(settle, *arguments)

        self.submit(call)
        return future

    def close(self, seconds: float) -> bool:
        """Begin no more calls, and wait for those that run; return whether all ended in time.

        A thread that is in ONNX Runtime when the interpreter ends aborts the process.
        """
        with self._ended:
            self._closing = True
            return self._ended.wait_for(lambda: self._running == 0, seconds)

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            with self._ended:
                if self._closing:
                    continue
                self._running += 1
            call()
            del call  # what it holds need not live until the next one comes
            with self._ended:
                self._running -= 1
                self._ended.notify_all()


def _succeed(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: "asyncio.Future[T]", error: BaseException) -> None:
    if future.done():
        return
    if isinstance(error, asyncio.CancelledError):
        future.cancel()
    else:
        future.set_exception(error)
