"""W3C trace context: continues a trace from one service to the next, without a library."""

import re
from dataclasses import dataclass
from typing import Protocol

from service.telemetry.timings import Timings

_TRACEPARENT = re.compile(
    rb"(?!ff)(?P<version>[0-9a-f]{2})-(?!0{32})(?P<trace>[0-9a-f]{32})"
    rb"-(?!0{16})(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})(?P<more>-.*)?"
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """The identity of a span within a trace; ids are hexadecimal."""

    trace_id: str
    span_id: str
    flags: int

    def traceparent(self) -> bytes:
        """Return the value of the header `traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}".encode()


def parse_traceparent(header: bytes) -> TraceContext | None:
    """Parse the header `traceparent`; return None if it is invalid.

    Versions above 00 may append further fields.
    """
    found = _TRACEPARENT.fullmatch(header.strip())
    if found is None or (found["version"] == b"00" and found["more"] is not None):
        return None
    return TraceContext(found["trace"].decode(), found["span"].decode(), int(found["flags"], 16))


@dataclass(slots=True)
class Answered:
    """A request whose response was sent; the model is None if the request did not reach one."""

    method: str
    route: str
    status: int
    request_id: str
    model: str | None = None
    version: str | None = None
    outcome: str | None = None
    stages: Timings | None = None


class RequestSpan(Protocol):
    """The span of a request in progress; it is exported when it ends, and only then."""

    @property
    def context(self) -> TraceContext:
        """The identity of the span."""

    def end(self, answered: Answered) -> None:
        """End the span with the attributes of the response."""


class Tracer(Protocol):
    """Starts spans."""

    def start(self, parent: TraceContext | None) -> RequestSpan:
        """Start the span of a request that arrives now."""
