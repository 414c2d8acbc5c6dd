"""Limits on requests and their bodies; the drain and the abort."""

import asyncio
from dataclasses import dataclass, field

from service.batching.moving_average import MovingAverage
from service.engine.tally import LocalTally, Tally
from service.errors import DeadlineExceeded, QueueFull, ServerStopping


@dataclass(frozen=True)
class Tallies:
    """What the admission counts: here, or over all front ends."""

    admitted: Tally = field(default_factory=LocalTally)
    in_flight: Tally = field(default_factory=LocalTally)
    body_bytes: Tally = field(default_factory=LocalTally)


class Admission:
    """Counts the admitted requests.

    A request is in flight once its body has arrived. Until then it takes no place, so slow clients
    do not block others; only the total size of the bodies received so far is limited.
    """

    def __init__(
        self,
        max_concurrent_requests: int,
        timeout_seconds: float,
        max_body_bytes: int,
        tallies: Tallies | None = None,
    ) -> None:
        self.timeout_seconds = timeout_seconds
        """Default timeout of a request, and the longest that it may ask for."""
        self.stopping = False
        """Whether the server rejects new requests."""
        self._max_concurrent_requests = max_concurrent_requests
        self._max_bytes = max_concurrent_requests * max_body_bytes
        self._timeouts: set[asyncio.Timeout] = set()
        self._tallies = tallies or Tallies()
        self._seconds = MovingAverage()
        self._aborted = False

    @property
    def in_flight(self) -> int:
        """Number of requests whose bodies have arrived and that are not yet answered."""
        return self._tallies.in_flight.total

    @property
    def receiving(self) -> int:
        """Number of admitted requests whose bodies are still arriving."""
        return self._tallies.admitted.total - self.in_flight

    @property
    def is_empty(self) -> bool:
        """Whether all requests that this process admitted are answered."""
        return not self._timeouts

    def enter(self, timeout: asyncio.Timeout, *, came_before_drain: bool) -> None:
        """Admit a request, or reject it; `abort` expires its timeout.

        During the drain, only requests on connections that were already open are admitted.
        """
        if self._aborted or (self.stopping and not came_before_drain):
            raise ServerStopping("The server is stopping and accepts no more requests.")
        if self._tallies.in_flight.total >= self._max_concurrent_requests:
            raise self._full()
        self._timeouts.add(timeout)
        self._tallies.admitted.add(1)

    def leave(self, timeout: asyncio.Timeout, body_bytes: int, seconds: float | None) -> None:
        """Release a request's bytes and place; `seconds` is its time in flight, if any."""
        if timeout in self._timeouts:
            self._timeouts.remove(timeout)
            self._tallies.admitted.add(-1)
        self._tallies.body_bytes.add(-body_bytes)
        if seconds is not None:
            self._tallies.in_flight.add(-1)
            self._seconds.add(seconds)

    def take_bytes(self, size: int) -> None:
        """Reserve room for a part of a body; raises `QueueFull` if there is not enough."""
        held = self._tallies.body_bytes
        held.add(size)
        if held.total > self._max_bytes:
            held.add(-size)
            raise QueueFull(
                f"The server holds {held.total:,} bytes of request bodies; try again later.",
                self._seconds.seconds,
            )

    def take_place(self) -> None:
        """Put a request in flight; raises `QueueFull` at the limit."""
        in_flight = self._tallies.in_flight
        in_flight.add(1)
        if in_flight.total > self._max_concurrent_requests:
            in_flight.add(-1)
            raise self._full()

    def stop(self) -> None:
        """Reject new requests; admitted ones continue."""
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
            return ServerStopping("The server stopped before the response was ready.")
        seconds = f"{allowed_seconds:.6f}".rstrip("0").rstrip(".")
        return DeadlineExceeded(f"The response was not ready within {seconds} s.")

    def _full(self) -> QueueFull:
        return QueueFull(
            f"The server has {self.in_flight} requests in flight; try again later.",
            self._seconds.seconds,
        )
