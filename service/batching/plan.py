"""How a model uses its device: what calibration measured, and what follows for each moment."""

from collections.abc import Sequence
from dataclasses import dataclass

from service.schema.model_status import Measurement, Width

MIN_SPEED_UP = 1.1
"""A wider execution must shorten one image's latency by this factor to be kept."""
ENOUGH_THROUGHPUT = 0.95
"""A batch need not give more than this share of the best throughput."""
ENOUGH_THROUGHPUT_ON_CPU = 0.8
"""Where images run alone each is decoded where it runs, without a detour: worth as much."""


@dataclass(frozen=True)
class ExecutionPlan:
    """The widths to choose from, narrow to wide, and what was measured of them.

    On a GPU there is one width, of one slot. `pixels` is the size of the images measured.
    """

    widths: tuple[Width, ...]
    measurements: tuple[Measurement, ...] = ()
    pixels: int = 1
    max_queue_delay_seconds: float = 0.0

    def choose(self, free: int, demand: int) -> Width | None:
        """Spread the free slots over the images in flight; None where no width fits.

        One image alone gets every core: the lowest latency. Where there are more images than
        cores, each core runs its own: the highest throughput.
        """
        share = max(self.widths[0].threads, free // max(1, demand))
        fitting = [width for width in self.widths if width.threads <= min(share, free)]
        return fitting[-1] if fitting else None

    def seconds(self, threads: int, batch_size: int, pixels: int | None = None) -> float:
        """What an execution takes by the calibration; 0 where nothing was measured."""
        rows = [row for row in self.measurements if row.threads == threads]
        if not rows:
            return 0.0
        nearest = min(rows, key=lambda row: abs(row.batch_size - batch_size))
        scale = 1.0 if pixels is None else pixels / self.pixels
        return nearest.seconds * batch_size / nearest.batch_size * scale

    @property
    def slot_seconds_per_image(self) -> float:
        """The least that an image costs of the device; 0 where nothing was measured."""
        return min(map(slot_seconds_per_image, self.measurements), default=0.0)


def slot_seconds_per_image(row: Measurement) -> float:
    """What an image costs of the device: of cores' time, or of a GPU's."""
    return row.seconds * row.threads / row.batch_size


def choose_widths(
    measurements: Sequence[Measurement],
    *,
    max_batch_size: int,
    max_seconds: float = float("inf"),
    enough: float = ENOUGH_THROUGHPUT,
) -> tuple[Width, ...]:
    """What to use of what was measured, narrow to wide.

    The narrowest is always there: executions side by side lose nothing to waiting for each
    other. A wider one is kept where it makes a single image faster. Batches take at most
    `max_seconds`, but for a single image.
    """
    by_threads: dict[int, list[Measurement]] = {}
    for row in sorted(measurements, key=lambda row: row.threads):
        by_threads.setdefault(row.threads, []).append(row)
    widths: list[Width] = []
    latency = float("inf")
    for threads, rows in by_threads.items():
        single = min(row.seconds for row in rows if row.batch_size == 1)
        if latency >= MIN_SPEED_UP * single:
            size = min(
                best_batch_size(rows, max_seconds=max_seconds, enough=enough), max_batch_size
            )
            widths.append(Width(threads=threads, max_batch_size=size))
            latency = single
    return tuple(widths)


def best_batch_size(
    rows: Sequence[Measurement],
    *,
    max_seconds: float = float("inf"),
    enough: float = ENOUGH_THROUGHPUT,
) -> int:
    """The smallest batch that gives this share of the best throughput within `max_seconds`.

    A single image is always allowed.
    """
    allowed = [row for row in rows if row.seconds <= max_seconds or row.batch_size == 1]
    best = min(map(slot_seconds_per_image, allowed))
    return min(row.batch_size for row in allowed if slot_seconds_per_image(row) * enough <= best)
