"""Who may come in: the bound on requests in flight, the deadline of each, and the drain."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import DeadlineExceeded, QueueFull, ServerStopping
from service.moving_average import MovingAverage, whole_seconds


class Deadline:
    """When a request must be answered, on the event loop's clock; it may come nearer."""

    def __init__(self, timeout: asyncio.Timeout, seconds: float, *, is_default: bool) -> None:
        self.seconds = seconds
        self.is_default = is_default
        self._timeout = timeout
        self._started = asyncio.get_running_loop().time()

    @property
    def at(self) -> float:
        """The time itself."""
        return self._started + self.seconds

    def shorten(self, seconds: float) -> None:
        """Allow so many seconds in all, unless fewer are allowed already."""
        if seconds < self.seconds:
            self.seconds, self.is_default = seconds, False
            self._timeout.reschedule(self.at)


class Admission:
    """The requests in flight."""

    def __init__(self, max_concurrent_requests: int, timeout_seconds: float) -> None:
        self._max_concurrent_requests = max_concurrent_requests
        self._timeout_seconds = timeout_seconds
        self._deadlines: set[asyncio.Timeout] = set()
        self._seconds = MovingAverage()
        self._stopping = False
        self._aborted = False

    @property
    def in_flight(self) -> int:
        """How many requests were admitted and are not answered."""
        return len(self._deadlines)

    @property
    def stopping(self) -> bool:
        """Whether the server takes no more requests."""
        return self._stopping

    @asynccontextmanager
    async def request(self, timeout_seconds: float | None = None) -> AsyncIterator[Deadline]:
        """Admit one request or refuse it at once; whatever it waits for ends at its deadline.

        A request may ask for a nearer one than the default, not for a later one.
        """
        self._refuse()
        started = time.monotonic()
        allowed = min(timeout_seconds or self._timeout_seconds, self._timeout_seconds)
        timeout = asyncio.timeout(allowed)
        deadline = Deadline(timeout, allowed, is_default=timeout_seconds is None)
        self._deadlines.add(timeout)
        try:
            async with timeout:
                yield deadline
        except TimeoutError:
            if timeout.expired():
                raise self._late(deadline.seconds) from None
            raise
        finally:
            self._deadlines.discard(timeout)
            self._seconds.add(time.monotonic() - started)

    def stop(self) -> None:
        """Admit nobody any more; those in flight go on."""
        self._stopping = True

    def abort(self) -> None:
        """End the deadline of everybody in flight now."""
        self._aborted = True
        now = asyncio.get_running_loop().time()
        for deadline in list(self._deadlines):
            if not deadline.expired():
                deadline.reschedule(now)

    def _refuse(self) -> None:
        if self._stopping:
            raise ServerStopping("The server is stopping and takes no more requests.")
        if len(self._deadlines) >= self._max_concurrent_requests:
            raise QueueFull(
                f"The server has {len(self._deadlines)} requests in flight; try again later.",
                whole_seconds(self._seconds.seconds),
            )

    def _late(self, allowed: float) -> DeadlineExceeded | ServerStopping:
        if self._aborted:
            return ServerStopping("The server stopped before the answer was ready.")
        seconds = f"{allowed:.6f}".rstrip("0").rstrip(".")
        return DeadlineExceeded(f"The answer was not ready within {seconds} s.")
