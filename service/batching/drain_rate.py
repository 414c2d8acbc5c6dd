"""How fast a queue empties: measured where somebody waited all the time."""

FORGETTING = 0.9
"""Weight of what is known at each new measurement."""


class DrainRate:
    """Seconds in which the queue gets one image shorter, other models' share included.

    An interval between the ends of two executions counts where images waited throughout;
    otherwise the device may have been idle. `seconds_per_image` is where it begins.
    """

    def __init__(self, seconds_per_image: float) -> None:
        self._seconds = seconds_per_image
        self._images = 1.0
        self._busy_since: float | None = None

    @property
    def seconds_per_image(self) -> float:
        """The mean, of which the older half is soon forgotten."""
        return self._seconds / self._images

    def executed(self, images: int, now: float, *, others_wait: bool) -> None:
        """Take in that an execution of so many images ended."""
        if self._busy_since is not None:
            self._seconds = FORGETTING * self._seconds + now - self._busy_since
            self._images = FORGETTING * self._images + images
        self._busy_since = now if others_wait else None
