"""The threads in which executions run: one for every slot of a device."""

import threading
from collections.abc import Callable
from queue import SimpleQueue


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

    def _work(self) -> None:
        for call in iter(self._calls.get, None):
            call()
            del call  # what it holds need not live until the next one comes
