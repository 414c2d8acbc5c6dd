"""The connections of one port: their limit, and the one to close for a new one."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from service.engine.tally import LocalTally, Tally

LOG_SECONDS = 60.0
RESERVED = 16
"""Places of a full port for health checks and metrics."""

_log = structlog.get_logger()


class Connection(Protocol):
    """A connection that can be asked to close."""

    def give_way(self) -> bool:
        """Close the connection for another, unless a request or response is in progress."""


def _nowhere() -> bool:
    return False


@dataclass(frozen=True)
class Counts:
    """The connections that are open and idle, over all processes.

    `close_elsewhere` asks for an idle connection of another process to be closed, and returns
    whether there is one.
    """

    open: Tally = field(default_factory=LocalTally)
    idle: Tally = field(default_factory=LocalTally)
    close_elsewhere: Callable[[], bool] = _nowhere


class Connections:
    """At most `limit` connections; at the limit, the longest-idle one is closed for a new one.

    If none is idle, `reserved` more are admitted for health checks and metrics. A client that holds
    connections open, or trickles requests through them, therefore cannot make probes fail.
    """

    def __init__(self, limit: int, reserved: int = 0, counts: Counts | None = None) -> None:
        self._limit = limit
        self._reserved = reserved
        self._counts = counts or Counts()
        self._open: set[Connection] = set()
        self._for_probes: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Connections without a request, longest idle first."""
        self._closed = self._refused = 0
        self._log_at = 0.0

    def admit(self, connection: Connection) -> bool:
        """Add an idle connection; return whether there was room."""
        opened = self._counts.open.total
        if opened >= self._limit:
            is_full = opened >= self._limit + self._reserved
            has_room = self._make_room(is_full=is_full)
            if is_full and not has_room:
                return False
            if not has_room:
                self._for_probes.add(connection)
        self._open.add(connection)
        self._counts.open.add(1)
        self.set_idle(connection)
        return True

    def is_for_probes(self, connection: Connection) -> bool:
        """Return whether a connection holds a reserved place; it leaves it once others are free."""
        if connection in self._for_probes and self._counts.open.total <= self._limit:
            self._for_probes.discard(connection)
        return connection in self._for_probes

    def refuse(self) -> None:
        """Count a request that is not a probe on a connection with a reserved place."""
        self._refused += 1

    def set_busy(self, connection: Connection) -> None:
        """Mark a connection as busy: a request has begun."""
        if self._idle.pop(connection, self) is None:
            self._counts.idle.add(-1)

    def set_idle(self, connection: Connection) -> None:
        """Mark a connection as idle: no request is in progress."""
        if connection in self._open and connection not in self._idle:
            self._idle[connection] = None
            self._counts.idle.add(1)

    def forget(self, connection: Connection) -> None:
        """Remove a closed connection."""
        if connection in self._open:
            self._open.remove(connection)
            self._counts.open.add(-1)
        self._for_probes.discard(connection)
        self.set_busy(connection)

    def close_idle(self) -> bool:
        """Close the longest-idle connection; return whether there was one."""
        leaves = next((each for each in self._idle if each.give_way()), None)
        if leaves is not None:
            self.forget(leaves)
        return leaves is not None

    def _make_room(self, *, is_full: bool) -> bool:
        """Close an idle connection, here or in another process."""
        has_room = self.close_idle() or self._counts.close_elsewhere()
        if has_room:
            self._closed += 1
        else:
            self._refused += is_full
        self._log_full()
        return has_room

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
