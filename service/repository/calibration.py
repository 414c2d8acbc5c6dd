"""Measures the speed of a model on a device, and caches the measurements in memory and on disk."""

import asyncio
import hashlib
import json
import os
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError

from service.images.photo import ImageArray
from service.runtime.device import Device
from service.runtime.graph_sessions import GraphSessions, Runnable
from service.schema.model_status import Measurement

MAX_ROUNDS = 5
BUDGET_SECONDS = 0.15
"""Time limit per model; further measurements are skipped."""
WORTHWHILE = 1.05
"""Gain in throughput that a batch of twice the size must show for a larger one to be tried."""
CPU_BATCH_SECONDS = 0.08
MAX_CPU_BATCH_SIZE = 16
"""The batch to measure on a CPU: as many images as run in this time, and at most this many. Larger
batches cost as much per image and take longer."""
METHOD = 2
"""Version of the measurement, which is part of the cache's key."""

MAX_SECONDS = 3600.0
"""Longest duration of an execution that a file of measurements may state."""
_MEASUREMENTS = TypeAdapter(list[Measurement])

_log = structlog.get_logger()

Key = Mapping[str, object]
Measure = Callable[[int, int], Awaitable[float]]
"""Runs batches of a number of images, on a number of threads, on all slots at once; returns the
seconds that one batch takes."""


def thread_counts(slots: int) -> list[int]:
    """Return the numbers of threads to try: 1, 2, 4 ... and all cores."""
    counts = [1]
    while counts[-1] * 2 < slots:
        counts.append(counts[-1] * 2)
    return counts if counts[-1] == slots else [*counts, slots]


async def calibrate(
    measure: Measure,
    threads: Sequence[int],
    max_batch_size: int,
    is_on_cpu: bool,
    budget_seconds: float = BUDGET_SECONDS,
) -> list[Measurement]:
    """Measure single images on each number of threads, then batches on the fewest.

    On a CPU, a single batch size is measured. On a GPU, batches of 2, 4 ... are measured while they
    raise the throughput and time is left. Each figure is the median of several rounds.
    """
    measurements: list[Measurement] = []
    spent = 0.0

    async def add(count: int, batch_size: int) -> Measurement:
        nonlocal spent
        rounds = [await measure(count, batch_size)]
        share = budget_seconds / (len(threads) + 1)
        while len(rounds) < MAX_ROUNDS and sum(rounds) + rounds[-1] <= share:
            rounds.append(await measure(count, batch_size))
        spent += sum(rounds)
        seconds = statistics.median(rounds)
        measurements.append(Measurement(threads=count, batch_size=batch_size, seconds=seconds))
        return measurements[-1]

    last = await add(threads[0], 1)
    for count in threads[1:]:
        await add(count, 1)
    if is_on_cpu:
        size = min(MAX_CPU_BATCH_SIZE, max_batch_size, int(CPU_BATCH_SECONDS / last.seconds))
        if size > 1:
            await add(threads[0], size)
        return measurements
    while last.batch_size * 2 <= max_batch_size and spent + 2 * last.seconds <= budget_seconds:
        larger = await add(threads[0], last.batch_size * 2)
        if 2 * last.seconds < WORTHWHILE * larger.seconds:
            break
        last = larger
    return measurements


class Bench:
    """Runs images as the device will run real ones: with as many batches at once as fit.

    `prepare` returns the graph's input for one image. It is part of the measurement: on a CPU, the
    thread that runs a batch also decodes its photos, and each of the two evicts the other's data
    from the caches, the less often the larger the batches are.

    Nothing else runs meanwhile; between two runs, others that wait for the device get a turn. Every
    session must have run a single image before.
    """

    def __init__(
        self,
        sessions: GraphSessions,
        prepare: Callable[[], ImageArray],
        outputs: Sequence[str],
        device: Device,
        *,
        is_on_cpu: bool,
    ) -> None:
        self._sessions = sessions
        self._prepare = prepare
        self._outputs = outputs
        self._device = device
        self._is_on_cpu = is_on_cpu
        self._warm = {(threads, 1) for threads in sessions.threads}

    async def seconds(self, threads: int, batch_size: int) -> float:
        """Return the mean duration of the executions."""
        await self._warm_up(threads, batch_size)
        return await self._run(threads, batch_size, max(1, self._device.slots // threads))

    async def _warm_up(self, threads: int, batch_size: int) -> None:
        """Run a shape once on each GPU: the first run allocates memory and chooses algorithms."""
        if self._is_on_cpu or (threads, batch_size) in self._warm:
            return
        batch = [self._prepare()] * batch_size
        sessions = [session for count, session in self._sessions.each() if count == threads]
        await run_on_each(self._device, sessions, batch, self._outputs)
        self._warm.add((threads, batch_size))

    async def _run(self, threads: int, batch_size: int, at_once: int) -> float:
        timed = partial(self._timed, threads, batch_size)
        async with self._device.turn(self._device.slots):
            runs = [self._device.workers.run(timed) for _ in range(at_once)]
            return statistics.mean(await asyncio.gather(*runs))

    def _timed(self, threads: int, batch_size: int) -> float:
        """Run a batch. A run in this thread alone is timed in CPU time, as if it were alone."""
        clock = time.thread_time if self._is_on_cpu and threads == 1 else time.perf_counter
        started = clock()
        images = [self._prepare() for _ in range(batch_size)]
        self._sessions.run(images, self._outputs, threads)
        return clock() - started


async def run_on_each(
    device: Device,
    sessions: Sequence[Runnable],
    images: Sequence[ImageArray],
    outputs: Sequence[str],
) -> None:
    """Run a batch on every session at the same time, while nothing else uses the device."""
    async with device.turn(device.slots):
        runs = [partial(session.run, images, outputs) for session in sessions]
        await asyncio.gather(*(device.workers.run(run) for run in runs))


class CalibrationCache:
    """A cache of measurements by device, graph and everything else that they depend on.

    They are kept in memory for a graph that is loaded again, and on disk if a folder is given.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, list[Measurement]] = {}

    def read(self, key: Key) -> list[Measurement] | None:
        """Return the measurements of a key; None if there are none or the file is damaged."""
        name = _file_name(key)
        if name in self._known or self._folder is None:
            return self._known.get(name)
        try:
            found = _MEASUREMENTS.validate_json((self._folder / name).read_bytes())
        except (OSError, ValidationError):
            return None
        if _is_plausible(found, key):
            return found
        _log.warning("calibration_ignored", path=str(self._folder / name))
        return None

    def write(self, key: Key, measurements: list[Measurement]) -> None:
        """Store measurements; log an error if the folder is not writable."""
        name = _file_name(key)
        self._known[name] = measurements
        if self._folder is None:
            return
        path = self._folder / name
        unfinished = path.with_suffix(f".{os.getpid()}")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(_MEASUREMENTS.dump_json(measurements))
            unfinished.replace(path)
        except OSError as error:
            _log.warning("calibration_not_kept", path=str(path), reason=error.strerror)


def _is_plausible(measurements: Sequence[Measurement], key: Key) -> bool:
    """Return whether measurements from a file could be those of `calibrate` for this key."""
    threads, limit = key["threads"], key["max_batch_size"]
    singles = [each.threads for each in measurements if each.batch_size == 1]
    if singles != threads or not isinstance(limit, int):
        return False
    return all(
        each.threads in singles
        and 1 <= each.batch_size <= limit
        and 0 < each.seconds <= MAX_SECONDS
        for each in measurements
    )


def _file_name(key: Key) -> str:
    text = json.dumps(key, sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()}.json"
