"""The connections of one port: their limit, and the one to close for a new one."""

import time
from typing import Protocol

import structlog

LOG_SECONDS = 60.0

_log = structlog.get_logger()


class Connection(Protocol):
    """A connection that can be asked to close."""

    def give_way(self) -> bool:
        """Close the connection for another, unless a request or response is in progress."""


class Connections:
    """At most `limit` connections; at the limit, the longest-idle one is closed for a new one.

    A client that only holds connections open therefore cannot lock out others, such as probes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Connections without a request, longest idle first."""
        self._closed = self._refused = 0
        self._log_at = 0.0

    def admit(self, connection: Connection) -> bool:
        """Add an idle connection; return whether there was room."""
        if len(self._open) >= self._limit and not self._make_room():
            return False
        self._open.add(connection)
        self._idle[connection] = None
        return True

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
        self._idle.pop(connection, None)

    def _make_room(self) -> bool:
        leaves = next((each for each in self._idle if each.give_way()), None)
        if leaves is None:
            self._refused += 1
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
