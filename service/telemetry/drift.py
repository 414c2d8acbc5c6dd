"""The distance between what a statistic was and what it is now."""

import math
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence

WINDOW_SECONDS = 3600.0
SLOT_SECONDS = 60.0
MIN_SAMPLES = 100
"""With fewer samples, chance alone makes the score large."""
SMOOTHING = 0.5
MIN_SHARE = 1e-3


class DriftWindow:
    """Counts the values of the last hour in bins, and compares them with a reference."""

    def __init__(
        self,
        bounds: Sequence[float],
        shares: Sequence[float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare bins that are separated by `bounds`; `shares` are those of the reference."""
        self._bounds = list(bounds)
        self._reference = [max(share, MIN_SHARE) for share in shares]
        self._clock = clock
        self._slots: deque[tuple[int, list[int]]] = deque()

    def add(self, value: float) -> None:
        """Count a value; one that equals a bound is in the bin below."""
        slot = int(self._clock() / SLOT_SECONDS)
        if not self._slots or self._slots[-1][0] != slot:
            self._drop_old()
            self._slots.append((slot, [0] * len(self._reference)))
        self._slots[-1][1][bisect_left(self._bounds, value)] += 1

    def score(self) -> float:
        """Return the population stability index: the sum of (now - then) * ln(now / then).

        It is 0 for equal distributions; by convention, 0.1 is a small change and 0.25 a large one.
        NaN with too few values in the last hour.
        """
        self._drop_old()
        counts = [sum(column) for column in zip(*(each for _, each in self._slots), strict=True)]
        total = sum(counts)
        if total < MIN_SAMPLES:
            return math.nan
        smoothed = total + SMOOTHING * len(counts)
        shares = [(count + SMOOTHING) / smoothed for count in counts]
        pairs = zip(shares, self._reference, strict=True)
        return math.fsum((now - then) * math.log(now / then) for now, then in pairs)

    def _drop_old(self) -> None:
        oldest = (self._clock() - WINDOW_SECONDS) / SLOT_SECONDS
        while self._slots and self._slots[0][0] < oldest:
            self._slots.popleft()
