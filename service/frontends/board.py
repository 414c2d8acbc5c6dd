"""Counters that all processes share, so that every limit counts the requests of all front ends.

Each front end writes only its own counters and reads the sum of all. It counts first and then looks
at the sum: two that take the last place at the same moment may both give it back, but a limit is
never exceeded. Nobody waits for a lock, so a process that stops at any point blocks none.
"""

import fcntl
from enum import IntEnum

from service.frontends.memory import map_memory

MAX_FRONTENDS = 64
MAX_INSTANCES = 1024
"""Instances in memory at the same time, over all models and versions."""
_BYTES = 8


class Column(IntEnum):
    """What each front end counts. The columns of the instances follow: reserved images."""

    ADMITTED = 0
    IN_FLIGHT = 1
    BODY_BYTES = 2
    CONNECTIONS = 3
    IDLE_CONNECTIONS = 4
    METRICS_CONNECTIONS = 5
    IDLE_METRICS_CONNECTIONS = 6


_COLUMNS = len(Column) + MAX_INSTANCES
_RATES = _COLUMNS * MAX_FRONTENDS
"""Where the engine writes the seconds per image of each instance."""
_BUCKETS = _RATES + MAX_INSTANCES
"""Where the rate limits of API keys are: for each, an id, its tokens, and when it was filled."""
MAX_BUCKETS = 4096
BUCKET_FIELDS = 3
BOARD_BYTES = (_BUCKETS + MAX_BUCKETS * BUCKET_FIELDS) * _BYTES


class Board:
    """The counters of `frontends` front ends."""

    def __init__(self, descriptor: int, frontends: int) -> None:
        self.frontends = frontends
        self._descriptor = descriptor
        memory = memoryview(map_memory(descriptor))
        self._integers = memory.cast("q")
        self._numbers = memory.cast("d")

    def total(self, column: int) -> int:
        """Return the sum of a column over all front ends."""
        start = column * MAX_FRONTENDS
        return sum(self._integers[start : start + self.frontends])

    def of(self, column: int, frontend: int) -> int:
        """Return the counter of one front end."""
        return self._integers[column * MAX_FRONTENDS + frontend]

    def add(self, column: int, frontend: int, number: int) -> None:
        """Change a counter of a front end, which only that front end does."""
        self._integers[column * MAX_FRONTENDS + frontend] += number

    def reserved(self, slot: int) -> int:
        """Return the number of images that all front ends have reserved room for."""
        return self.total(len(Column) + slot)

    def reserve(self, slot: int, frontend: int, images: int) -> None:
        """Reserve room for images of an instance; a negative number frees it."""
        self.add(len(Column) + slot, frontend, images)

    def seconds_per_image(self, slot: int) -> float:
        """Return the rate at which an instance's queue empties."""
        return self._numbers[_RATES + slot]

    def set_seconds_per_image(self, slot: int, seconds: float) -> None:
        """Publish the rate of an instance, which only the engine does."""
        self._numbers[_RATES + slot] = seconds

    def clear(self, frontend: int) -> None:
        """Set the counters of a front end that has ended to zero."""
        for column in range(_COLUMNS):
            self._integers[column * MAX_FRONTENDS + frontend] = 0

    def clear_slot(self, slot: int) -> None:
        """Set the counters of an instance to zero, before another one gets its slot."""
        start = (len(Column) + slot) * MAX_FRONTENDS
        for index in range(start, start + MAX_FRONTENDS):
            self._integers[index] = 0

    def bucket(self, index: int) -> tuple[int, float, float]:
        """Return the id, the tokens and the time of filling of a rate limit."""
        at = _BUCKETS + index * BUCKET_FIELDS
        return self._integers[at], self._numbers[at + 1], self._numbers[at + 2]

    def set_bucket(self, index: int, identity: int, tokens: float, filled_at: float) -> None:
        """Change a rate limit; hold its lock."""
        at = _BUCKETS + index * BUCKET_FIELDS
        self._numbers[at + 1], self._numbers[at + 2] = tokens, filled_at
        self._integers[at] = identity

    def lock(self) -> bool:
        """Try to lock the rate limits; a process that ends gives the lock back."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def unlock(self) -> None:
        """Unlock the rate limits."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN)


class SharedTally:
    """A counter of one front end, and the sum of all front ends."""

    __slots__ = ("_board", "_column", "_frontend")

    def __init__(self, board: Board, column: int, frontend: int) -> None:
        self._board = board
        self._column = column
        self._frontend = frontend

    @property
    def own(self) -> int:
        """What this process counts."""
        return self._board.of(self._column, self._frontend)

    @property
    def total(self) -> int:
        """What all processes count."""
        return self._board.total(self._column)

    def add(self, number: int) -> None:
        """Count."""
        self._board.add(self._column, self._frontend, number)
