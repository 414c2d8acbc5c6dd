"""An exponential moving average."""


class MovingAverage:
    """Exponential moving average of durations, in seconds."""

    def __init__(self, weight: float = 0.1) -> None:
        self._weight = weight
        self._seconds: float | None = None

    def add(self, seconds: float) -> None:
        """Add a measurement."""
        if self._seconds is None:
            self._seconds = seconds
        else:
            self._seconds += self._weight * (seconds - self._seconds)

    @property
    def seconds(self) -> float:
        """The mean; 0 before the first measurement."""
        return self._seconds or 0.0
