"""W3C trace context: how a trace goes on from one service to the next. No library here."""

import re
from dataclasses import dataclass
from typing import Protocol

from service.telemetry.timings import Timings

_TRACEPARENT = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    rb"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True)
class TraceContext:
    """A span's place in a trace, its ids in hexadecimal."""

    trace_id: str
    span_id: str
    flags: int

    def traceparent(self) -> bytes:
        """Return it as the header `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()


def parse_traceparent(header: bytes) -> TraceContext | None:
    """Read the header `traceparent`; None where it is not valid.

    A version above 00 may have more fields at its end.
    """
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None or (found["version"] == b"00" and found["more"] is not None):
        return None
    return TraceContext(found["trace"].decode(), found["span"].decode(), int(found["flags"], 16))


@dataclass(frozen=True)
class Answered:
    """What is known of a request once its answer has left; of the model, where it got so far."""

    method: str
    route: str
    status: int
    request_id: str
    model: str | None = None
    version: str | None = None
    outcome: str | None = None
    stages: Timings | None = None


class RequestSpan(Protocol):
    """The span of a request that is being answered; one that never ends is never sent."""

    @property
    def context(self) -> TraceContext:
        """Its place in its trace."""

    def end(self, answered: Answered) -> None:
        """Say how it went."""


class Tracer(Protocol):
    """Begins spans."""

    def start(self, parent: TraceContext | None) -> RequestSpan:
        """Begin the span of a request that arrives now."""
