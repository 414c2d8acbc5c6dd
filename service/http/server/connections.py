"""The connections of one port: how many there are, and which gives way to a newcomer."""

import time
from typing import Protocol

import structlog

LOG_SECONDS = 60.0

_log = structlog.get_logger()


class Connection(Protocol):
    """What can be asked to end."""

    def give_way(self) -> bool:
        """End the connection for another, unless something is still under way on it."""


class Connections:
    """At most so many; where they are all taken, the one that has been idle longest ends.

    So who only holds connections keeps nobody out, the probes above all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: set[Connection] = set()
        self._idle: dict[Connection, None] = {}
        """Those without a request, the longest idle first."""
        self._closed = self._refused = 0
        self._log_at = 0.0

    def admit(self, connection: Connection) -> bool:
        """Take a connection, which is idle yet; tell whether there was room."""
        if len(self._open) >= self._limit and not self._make_room():
            return False
        self._open.add(connection)
        self._idle[connection] = None
        return True

    def set_busy(self, connection: Connection) -> None:
        """Note that a request has begun."""
        self._idle.pop(connection, None)

    def set_idle(self, connection: Connection) -> None:
        """Note that no request is under way any more."""
        if connection in self._open:
            self._idle[connection] = None

    def forget(self, connection: Connection) -> None:
        """Note that a connection is no more."""
        self._open.discard(connection)
        self._idle.pop(connection, None)

    def _make_room(self) -> bool:
        leaves = next((each for each in self._idle if each.give_way()), None)
        if leaves is None:
            self._refused += 1
        else:
            self._closed += 1
            self.forget(leaves)
        self._tell()
        return leaves is not None

    def _tell(self) -> None:
        """Log it, but not each time: it happens often, if at all."""
        now = time.monotonic()
        if now >= self._log_at:
            _log.warning(
                "connections_full",
                max_connections=self._limit,
                closed_idle=self._closed,
                refused=self._refused,
            )
            self._closed, self._refused, self._log_at = 0, 0, now + LOG_SECONDS
