"""Where the time of one request goes."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

Stage = Literal["receive", "decode", "queue", "compute", "encode"]


class StageTimer:
    """Seconds of each stage of one request, in the order the stages began.

    `began` is on the clock of `time.perf_counter`; `batch_size` counts the images of the largest
    batch that one of the request's was in.
    """

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.batch_size: int | None = None
        self._seconds: dict[Stage, float] = {}

    @property
    def seconds(self) -> Mapping[Stage, float]:
        """What was measured so far."""
        return self._seconds

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Time a block as a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started)

    def add(self, name: Stage, seconds: float) -> None:
        """Count seconds to a stage."""
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def server_timing(self) -> str:
        """Return the stages as a `Server-Timing` header, in milliseconds."""
        return ", ".join(f"{name};dur={s * 1000:.1f}" for name, s in self._seconds.items())
