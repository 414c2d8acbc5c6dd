"""Rate limits of API keys that count the requests of all front ends."""

import time
from collections.abc import Callable

from service.frontends.board import MAX_BUCKETS, Board

ATTEMPTS = 1000
"""Attempts to get the lock, which is held for microseconds. A process that is stopped just then
must not block the others: they go on without it, and may count one request too few."""


class SharedBucket:
    """Like `TokenBucket`, with its tokens on the board; `identity` names it in every process.

    If the limits of a key change, the tokens stay, so a key does not get a new burst from each
    front end that reads the new file.
    """

    def __init__(
        self,
        board: Board,
        identity: int,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._board = board
        self._identity = identity or 1
        self._clock = clock

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""
        locked = any(self._board.lock() for _ in range(ATTEMPTS))
        try:
            return self._take()
        finally:
            if locked:
                self._board.unlock()

    def _take(self) -> float:
        now = self._clock()
        index, tokens, filled_at = self._find(now)
        tokens = min(float(self.burst), tokens + max(0.0, now - filled_at) * self.rate)
        wait = 0.0 if tokens >= 1 else (1 - tokens) / self.rate
        self._board.set_bucket(index, self._identity, tokens - (wait == 0.0), now)
        return wait

    def _find(self, now: float) -> tuple[int, float, float]:
        """Return the place of the bucket with its contents; a new one is full."""
        start = self._identity % MAX_BUCKETS
        for step in range(MAX_BUCKETS):
            index = (start + step) % MAX_BUCKETS
            identity, tokens, filled_at = self._board.bucket(index)
            if identity == self._identity:
                return index, tokens, filled_at
            if identity == 0:
                break
        return index, float(self.burst), now
