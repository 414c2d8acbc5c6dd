"""A mean that forgets, and whole seconds for Retry-After."""

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

    @property
    def seconds(self) -> float:
        """The mean; 0 before the first measurement."""
        return self._seconds or 0.0


def whole_seconds(seconds: float) -> int:
    """Return the seconds rounded up, one at least: what a Retry-After may say."""
    return max(1, math.ceil(seconds))
