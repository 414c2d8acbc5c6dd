"""Timings that are measured by blocks; to be replaced by assignments to `Timings`."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from service.telemetry.timings import Stage, Timings


class StageTimer(Timings):
    """Timings in the order in which the stages began."""

    def __init__(self) -> None:
        super().__init__(order=())

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """Return the seconds measured so far."""
        return self.stages()

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time a block as a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: Stage, seconds: float) -> None:
        """Add seconds to a stage."""
        if name not in self.order:
            self.order = (*self.order, name)
        setattr(self, name, (getattr(self, name) or 0.0) + seconds)
