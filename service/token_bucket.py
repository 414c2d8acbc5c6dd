"""A rate limit: a steady rate with bursts."""

import time
from collections.abc import Callable


class TokenBucket:
    """Fills at `rate` tokens per second up to `burst`; starts full."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._clock = clock
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token and return 0; if there is none, return the seconds until there is one."""
        now = self._clock()
        filled = self._tokens + (now - self._filled_at) * self.rate
        self._tokens, self._filled_at = min(float(self.burst), filled), now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0
