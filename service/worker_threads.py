"""The threads in which executions run: one for every slot of a device."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class WorkerThreads:
    """Calls what is submitted, in order; a call must not raise.

    Unlike an executor's, these threads may be replaced when one hangs, and none is waited for
    when the process ends.
    """

    def __init__(self, count: int, name: str) -> None:
        self._name = name
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
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

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            call()
            del call  # what it holds need not live until the next one comes


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
