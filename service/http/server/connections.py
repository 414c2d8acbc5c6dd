"""The connections of one port: their limit, and the one to close for a new one."""

import time
from typing import Protocol

import structlog

LOG_SECONDS = 60.0
RESERVED = 16
"""Places of a full port for health checks and metrics."""

_log = structlog.get_logger()


class Connection(Protocol):
    """A connection that can be asked to close."""

    def give_way(self) -> bool:
        """Close the connection for another, unless a request or response is in progress."""


class Connections:
    """At most `limit` connections; at the limit, the longest-idle one is closed for a new one.

    If none is idle, `reserved` more are admitted for health checks and metrics. A client that holds
    connections open, or trickles requests through them, therefore cannot make probes fail.
    """

    def __init__(self, limit: int, reserved: int = 0) -> None:
        self._limit = limit
        self._reserved = reserved
        self._open: set[Connection] = set()
        self._for_probes: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Connections without a request, longest idle first."""
        self._closed = self._refused = 0
        self._log_at = 0.0

    def admit(self, connection: Connection) -> bool:
        """Add an idle connection; return whether there was room."""
        if len(self._open) >= self._limit:
            is_full = len(self._open) >= self._limit + self._reserved
            if not self._make_room(is_full=is_full) and is_full:
                return False
            if len(self._open) >= self._limit:
                self._for_probes.add(connection)
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def is_for_probes(self, connection: Connection) -> bool:
        """Return whether a connection holds a reserved place; it leaves it once others are free."""
        if connection in self._for_probes and len(self._open) <= self._limit:
            self._for_probes.discard(connection)
        return connection in self._for_probes

    def refuse(self) -> None:
        """Count a request that is not a probe on a connection with a reserved place."""
        self._refused += 1

    def set_busy(self, connection: Connection) -> None:
        """Mark a connection as busy: a request has begun."""
        self._idle.pop(connection, None)

    def set_idle(self, connection: Connection) -> None:
        """Mark a connection as idle: no request is in progress."""
        if connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self._open.discard(connection)
        self._for_probes.discard(connection)
        self._idle.pop(connection, None)

    def _make_room(self, *, is_full: bool) -> bool:
        leaves = next((each for each in self._idle if each.give_way()), None)
        if leaves is None:
            self._refused += is_full
        else:
            self._closed += 1
            self.forget(leaves)
        self._log_full()
        return leaves is not None

    def _log_full(self) -> None:
        """Log that the limit is reached, at most once a minute."""
        now = time.monotonic()
        if now >= self._log_at:
            _log.warning(
                "connections_full",
                max_connections=self._limit,
                closed_idle=self._closed,
                refused=self._refused,
            )
            self._closed, self._refused, self._log_at = 0, 0, now + LOG_SECONDS
