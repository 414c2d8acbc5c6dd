"""The time that a request spends in each stage."""

import time
from dataclasses import dataclass, field
from typing import Literal

Stage = Literal["receive", "decode", "queue", "compute", "encode"]
STAGES: tuple[Stage, ...] = ("receive", "decode", "queue", "compute", "encode")
QUEUED_FIRST: tuple[Stage, ...] = ("receive", "queue", "decode", "compute", "encode")
"""Order of the stages if images are decoded by the thread that runs their batch."""


@dataclass(slots=True)
class Timings:
    """Seconds that a request spent in each stage; None if the stage did not happen.

    `began` is on the clock of `time.perf_counter`. `batch_size` is the size of the largest batch
    that an image of the request was in. `order` is the order in which the stages followed one
    another.
    """

    began: float = field(default_factory=time.perf_counter)
    receive: float | None = None
    decode: float | None = None
    queue: float | None = None
    compute: float | None = None
    encode: float | None = None
    batch_size: int | None = None
    order: tuple[Stage, ...] = STAGES

    def stages(self) -> dict[Stage, float]:
        """Return the seconds of each stage that happened, in their order."""
        found: dict[Stage, float] = {}
        for stage in self.order:
            seconds = getattr(self, stage)
            if seconds is not None:
                found[stage] = seconds
        return found

    def server_timing(self) -> str:
        """Return the stages as a `Server-Timing` header, in milliseconds."""
        header = ""
        for stage in self.order:
            seconds = getattr(self, stage)
            if seconds is not None:
                header += f"{stage};dur={seconds * 1000:.1f}, "
        return header.removesuffix(", ")
