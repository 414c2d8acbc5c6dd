"""Bounds on requests and their bodies, the drain, and the abort."""

import asyncio

from service.engine.moving_average import MovingAverage
from service.errors import DeadlineExceeded, QueueFull, ServerStopping


class Admission:
    """Counts the requests that were let in.

    While its body arrives a request takes no place, so that slow clients keep no others out; what
    has arrived of all bodies together is bounded. Once its body has arrived, a request is in
    flight.
    """

    def __init__(
        self, max_concurrent_requests: int, timeout_seconds: float, max_body_bytes: int
    ) -> None:
        self.timeout_seconds = timeout_seconds
        """The default deadline of a request, and the latest that one may ask for."""
        self.in_flight = 0
        """Requests whose bodies have arrived and that are not answered."""
        self.stopping = False
        """Whether the server takes no new requests."""
        self._max_concurrent_requests = max_concurrent_requests
        self._max_bytes = max_concurrent_requests * max_body_bytes
        self._timeouts: set[asyncio.Timeout] = set()
        self._bytes = 0
        self._seconds = MovingAverage()
        self._aborted = False

    @property
    def receiving(self) -> int:
        """Requests that were let in and whose bodies are still arriving."""
        return len(self._timeouts) - self.in_flight

    @property
    def is_empty(self) -> bool:
        """Whether every request that was let in is answered."""
        return not self._timeouts

    def enter(self, timeout: asyncio.Timeout, *, came_before_drain: bool) -> None:
        """Let a request in, or refuse it; `abort` ends its timeout.

        During the drain, requests on connections that were open before are let in.
        """
        if self._aborted or (self.stopping and not came_before_drain):
            raise ServerStopping("The server is stopping and takes no more requests.")
        if self.in_flight >= self._max_concurrent_requests:
            raise self._full()
        self._timeouts.add(timeout)

    def leave(self, timeout: asyncio.Timeout, body_bytes: int, seconds: float | None) -> None:
        """Give back what a request took; `seconds` is how long it was in flight, if it was."""
        self._timeouts.discard(timeout)
        self._bytes -= body_bytes
        if seconds is not None:
            self.in_flight -= 1
            self._seconds.add(seconds)

    def take_bytes(self, size: int) -> None:
        """Take room for a part of a body; raises `QueueFull` if bodies have all of it."""
        if self._bytes + size > self._max_bytes:
            raise QueueFull(
                f"The server holds {self._bytes:,} bytes of bodies; try again later.",
                self._seconds.seconds,
            )
        self._bytes += size

    def take_place(self) -> None:
        """Put a request in flight; raises `QueueFull` if there are enough."""
        if self.in_flight >= self._max_concurrent_requests:
            raise self._full()
        self.in_flight += 1

    def stop(self) -> None:
        """Take no new requests; those that are in go on."""
        self.stopping = True

    def abort(self) -> None:
        """Reject new requests and expire every request in flight."""
        self.stopping = self._aborted = True
        now = asyncio.get_running_loop().time()
        for timeout in list(self._timeouts):
            if not timeout.expired():
                timeout.reschedule(now)

    def late(self, allowed_seconds: float) -> DeadlineExceeded | ServerStopping:
        """Return the error of a request whose timeout expired."""
        if self._aborted:
            return ServerStopping("The server stopped before the answer was ready.")
        seconds = f"{allowed_seconds:.6f}".rstrip("0").rstrip(".")
        return DeadlineExceeded(f"The answer was not ready within {seconds} s.")

    def _full(self) -> QueueFull:
        return QueueFull(
            f"The server has {self.in_flight} requests in flight; try again later.",
            self._seconds.seconds,
        )
