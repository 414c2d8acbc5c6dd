"""The execution plan of a model: the widths to choose from, and their measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from service.schema.model_status import Measurement, Width

MIN_SPEED_UP = 1.1
"""Smallest factor by which a wider execution must shorten the latency of one image."""
ENOUGH_THROUGHPUT = 0.97
"""The share of the best throughput that the chosen batch size must reach."""

CLEARLY_MORE = 1.1
"""On a CPU, batches in which an image costs this many times more than alone are not used."""

EXECUTION_SECONDS = 0.25e-3
"""Cost of an execution besides the run that calibration measures: work on the event loop, and two
thread switches. It matters only for models that take less than a few milliseconds."""


@dataclass(frozen=True)
class ExecutionPlan:
    """The widths to choose from, in ascending order, and their measurements.

    On a GPU, there is a single width of one slot. `pixels` is the size of the measured images.
    """

    widths: tuple[Width, ...]
    measurements: tuple[Measurement, ...] = ()
    pixels: int = 1
    max_queue_delay_seconds: float = 0.0

    def choose(self, free: int, demand: int) -> Width | None:
        """Spread the free slots over the images in flight; return None if no width fits.

        A single image gets every core, for the lowest latency. If there are more images than
        cores, each core runs its own image, for the highest throughput.
        """
        share = min(free, max(self.widths[0].threads, free // max(1, demand)))
        for width in reversed(self.widths):
            if width.threads <= share:
                return width
        return None

    def seconds(self, threads: int, batch_size: int, pixels: int | None = None) -> float:
        """Return the expected duration of an execution; 0 if nothing was measured."""
        per_image = self._seconds_per_image.get(threads)
        if per_image is None:
            return 0.0
        seconds = batch_size * per_image[min(batch_size, len(per_image) - 1)]
        return seconds if pixels is None else seconds * pixels / self.pixels

    @cached_property
    def _seconds_per_image(self) -> dict[int, list[float]]:
        """Seconds per image by threads and batch size, from the nearest measured batch size."""
        by_threads: dict[int, list[Measurement]] = {}
        for row in self.measurements:
            by_threads.setdefault(row.threads, []).append(row)
        return {threads: _seconds_per_image(rows) for threads, rows in by_threads.items()}

    @property
    def slot_seconds_per_image(self) -> float:
        """Lowest cost of an image in slots x seconds; 0 if nothing was measured."""
        return min(map(slot_seconds_per_image, self.measurements), default=0.0)


def _seconds_per_image(rows: Sequence[Measurement]) -> list[float]:
    """List the seconds per image at every batch size from 0 to the largest measured."""
    largest = max(row.batch_size for row in rows)
    nearest = (min(rows, key=lambda row: abs(row.batch_size - size)) for size in range(largest + 1))
    return [row.seconds / row.batch_size for row in nearest]


def slot_seconds_per_image(row: Measurement) -> float:
    """Return the cost of one image: seconds of a core, or of a GPU."""
    return row.seconds * row.threads / row.batch_size


def choose_widths(
    measurements: Sequence[Measurement],
    *,
    max_batch_size: int,
    max_seconds: float = float("inf"),
    is_on_cpu: bool = False,
) -> tuple[Width, ...]:
    """Choose among the measured widths, in ascending order.

    The narrowest is always included: independent executions never wait for each other. A wider
    one is included if it makes a single image faster. A batch of more than one image takes at
    most `max_seconds`.
    """
    by_threads: dict[int, list[Measurement]] = {}
    for row in sorted(measurements, key=lambda row: row.threads):
        by_threads.setdefault(row.threads, []).append(row)
    choose = largest_batch_size if is_on_cpu else smallest_batch_size
    widths: list[Width] = []
    latency = float("inf")
    for threads, rows in by_threads.items():
        costs = _costs(rows, max_seconds)
        if latency >= MIN_SPEED_UP * costs[1]:
            size = min(choose(costs), max_batch_size)
            widths.append(Width(threads=threads, max_batch_size=size))
            latency = costs[1]
    return tuple(widths)


def smallest_batch_size(costs: Mapping[int, float]) -> int:
    """Return the smallest batch size with nearly the lowest cost of an image.

    `costs` are the seconds per image by batch size.
    """
    best = min(costs.values())
    return min(size for size, cost in costs.items() if cost * ENOUGH_THROUGHPUT <= best)


def largest_batch_size(costs: Mapping[int, float]) -> int:
    """Return the largest batch size in which an image does not cost clearly more than alone.

    On a CPU, batches save a tenth at best, which is hardly more than the error of a measurement. A
    large limit does no harm, because no image waits for a batch to be filled, and a core takes only
    its share of the images that wait.
    """
    return max(size for size, cost in costs.items() if cost <= CLEARLY_MORE * costs[1])


def _costs(rows: Sequence[Measurement], max_seconds: float) -> dict[int, float]:
    """Return the seconds per image by batch size, without batches that take too long."""
    return {
        row.batch_size: (row.seconds + EXECUTION_SECONDS) / row.batch_size
        for row in rows
        if row.seconds <= max_seconds or row.batch_size == 1
    }
