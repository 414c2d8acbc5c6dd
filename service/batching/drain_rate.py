"""How fast a queue empties, measured while images wait."""

FORGETTING = 0.9
"""Weight of the past at each new measurement."""


class DrainRate:
    """Seconds in which the queue gets one image shorter, including other models' share.

    The interval between the ends of two executions counts if images waited throughout;
    otherwise the device may have been idle. `seconds_per_image` is the mean so far, at first the
    value given.
    """

    def __init__(self, seconds_per_image: float) -> None:
        self.seconds_per_image = seconds_per_image
        self._seconds = seconds_per_image
        self._images = 1.0
        self._busy_since: float | None = None

    def executed(self, images: int, now: float, *, others_wait: bool) -> None:
        """Count an execution that has ended."""
        if self._busy_since is not None:
            self._seconds = FORGETTING * self._seconds + now - self._busy_since
            self._images = FORGETTING * self._images + images
            self.seconds_per_image = self._seconds / self._images
        self._busy_since = now if others_wait else None
