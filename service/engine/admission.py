"""Who may come in: the bounds on requests and their bodies, each one's deadline, the drain."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.engine.moving_average import MovingAverage
from service.errors import DeadlineExceeded, QueueFull, ServerStopping


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
    """The requests that were let in.

    While its body arrives a request takes no place, so that slow clients keep nobody out; what has
    arrived of all bodies is bounded. Once its body is there, a request is in flight.
    """

    def __init__(
        self, max_concurrent_requests: int, timeout_seconds: float, max_body_bytes: int
    ) -> None:
        self._max_concurrent_requests = max_concurrent_requests
        self._max_bytes = max_concurrent_requests * max_body_bytes
        self._timeout_seconds = timeout_seconds
        self._deadlines: set[asyncio.Timeout] = set()
        self._in_flight = 0
        self._bytes = 0
        self._seconds = MovingAverage()
        self._stopping = False
        self._aborted = False

    @property
    def in_flight(self) -> int:
        """How many requests have a place: their bodies are there, and they are not answered."""
        return self._in_flight

    @property
    def receiving(self) -> int:
        """How many requests were let in, and their bodies still arrive."""
        return len(self._deadlines) - self._in_flight

    @property
    def stopping(self) -> bool:
        """Whether the server takes no more requests."""
        return self._stopping

    @property
    def is_empty(self) -> bool:
        """Whether every request that was let in is answered."""
        return not self._deadlines

    @asynccontextmanager
    async def request(
        self, timeout_seconds: float | None = None, *, came_before_drain: bool = False
    ) -> AsyncIterator["Admitted"]:
        """Let one request in or refuse it at once; whatever it waits for ends at its deadline.

        A request may ask for a nearer one than the default, not for a later one. Who has been
        there since before the drain is let in while it lasts.
        """
        self._refuse(came_before_drain)
        allowed = min(timeout_seconds or self._timeout_seconds, self._timeout_seconds)
        timeout = asyncio.timeout(allowed)
        deadline = Deadline(timeout, allowed, is_default=timeout_seconds is None)
        admitted = Admitted(self, deadline)
        self._deadlines.add(timeout)
        try:
            async with timeout:
                yield admitted
        except TimeoutError:
            if timeout.expired():
                raise self._late(deadline.seconds) from None
            raise
        finally:
            self._deadlines.discard(timeout)
            self._release(admitted)

    def stop(self) -> None:
        """Let no newcomer in; those who are in go on."""
        self._stopping = True

    def abort(self) -> None:
        """Let nobody in, and end the deadline of everybody who is."""
        self._stopping = self._aborted = True
        now = asyncio.get_running_loop().time()
        for deadline in list(self._deadlines):
            if not deadline.expired():
                deadline.reschedule(now)

    def take_bytes(self, size: int) -> None:
        """Count a part of a body, or refuse it."""
        if self._bytes + size > self._max_bytes:
            raise QueueFull(
                f"The server holds {self._bytes:,} bytes of bodies; try again later.",
                self._seconds.seconds,
            )
        self._bytes += size

    def take_place(self) -> None:
        """Count a request in flight, or refuse it."""
        self._check_place()
        self._in_flight += 1

    def _release(self, admitted: "Admitted") -> None:
        self._bytes -= admitted.body_bytes
        if admitted.placed_at is not None:
            self._in_flight -= 1
            self._seconds.add(time.monotonic() - admitted.placed_at)

    def _refuse(self, came_before_drain: bool) -> None:
        if self._aborted or (self._stopping and not came_before_drain):
            raise ServerStopping("The server is stopping and takes no more requests.")
        self._check_place()

    def _check_place(self) -> None:
        if self._in_flight >= self._max_concurrent_requests:
            raise QueueFull(
                f"The server has {self._in_flight} requests in flight; try again later.",
                self._seconds.seconds,
            )

    def _late(self, allowed: float) -> DeadlineExceeded | ServerStopping:
        if self._aborted:
            return ServerStopping("The server stopped before the answer was ready.")
        seconds = f"{allowed:.6f}".rstrip("0").rstrip(".")
        return DeadlineExceeded(f"The answer was not ready within {seconds} s.")


class Admitted:
    """A request that was let in; what it takes is given back when it ends."""

    def __init__(self, admission: Admission, deadline: Deadline) -> None:
        self.deadline = deadline
        self.body_bytes = 0
        self.placed_at: float | None = None
        self._admission = admission

    def take_bytes(self, size: int) -> None:
        """Take room for a part of the body; raises `QueueFull` where bodies have all of it."""
        self._admission.take_bytes(size)
        self.body_bytes += size

    def take_place(self) -> None:
        """Be in flight; raises `QueueFull` where there are enough."""
        self._admission.take_place()
        self.placed_at = time.monotonic()
