"""How often something may be done: a steady rate, and a burst that may come at once."""

import time
from collections.abc import Callable


class TokenBucket:
    """Fills at `rate` tokens a second up to `burst`; it is full at first."""

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._clock = clock
        self._filled_at = clock()

    def take(self) -> float:
        """Take a token; return 0, or in how many seconds there will be one where there is none."""
        now = self._clock()
        filled = self._tokens + (now - self._filled_at) * self.rate
        self._tokens, self._filled_at = min(float(self.burst), filled), now
        if self._tokens < 1:
            return (1 - self._tokens) / self.rate
        self._tokens -= 1
        return 0.0
