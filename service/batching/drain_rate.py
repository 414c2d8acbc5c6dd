"""Measures how fast a queue empties while images are waiting."""

FORGETTING = 0.9
"""Weight of earlier measurements when a new one is added."""


class DrainRate:
    """The time per image in which the queue shrinks, including the time of other models.

    The interval between the ends of two executions counts only if images waited throughout;
    otherwise the device may have been idle. `seconds_per_image` is the mean so far; before any
    measurement, it is the initial value.
    """

    def __init__(self, seconds_per_image: float) -> None:
        self.seconds_per_image = seconds_per_image
        self._seconds = seconds_per_image
        self._images = 1.0
        self._busy_since: float | None = None

    def executed(self, images: int, now: float, *, others_wait: bool) -> None:
        """Record the end of an execution."""
        if self._busy_since is not None:
            self._seconds = FORGETTING * self._seconds + now - self._busy_since
            self._images = FORGETTING * self._images + images
            self.seconds_per_image = self._seconds / self._images
        self._busy_since = now if others_wait else None
