"""A mean that forgets: the measured basis of every Retry-After."""

import math


class MovingAverage:
    """Exponential moving average of durations, in seconds."""

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self._seconds: float | None = None

    def add(self, seconds: float) -> None:
        """Take a measurement in."""
        if self._seconds is None:
            self._seconds = seconds
        else:
            self._seconds += self._weight * (seconds - self._seconds)

    def retry_after_seconds(self, pending: int) -> int:
        """Return how long `pending` turns will take, in whole seconds, one at least."""
        return max(1, math.ceil(pending * (self._seconds or 0.0)))
