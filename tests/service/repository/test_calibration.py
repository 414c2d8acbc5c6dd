"""What calibration measures and keeps; fakes supply the durations."""

import time

import numpy as np
import pytest
import structlog

from service.repository.calibration import (
    Bench,
    CalibrationCache,
    calibrate,
    thread_counts,
)
from service.runtime.device import Device
from service.runtime.graph_sessions import GraphSessions, SessionGroup
from service.schema.model_status import Measurement


class Machine:
    """Takes a given time, by threads and batch size."""

    def __init__(self, seconds) -> None:
        self.seconds = seconds
        self.runs: list[tuple[int, int]] = []

    async def __call__(self, threads: int, batch_size: int) -> float:
        self.runs.append((threads, batch_size))
        return self.seconds(threads, batch_size)


@pytest.mark.parametrize(
    ("slots", "counts"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_thread_counts_are_powers_of_two_and_all_cores(slots, counts):
    assert thread_counts(slots) == counts


async def test_larger_batches_are_measured_while_they_pay():
    machine = Machine(lambda threads, batch: (0.001 + 0.001 * batch) / threads)
    rows = await calibrate(machine, [1, 2], 64, False, budget_seconds=10)
    assert [(row.threads, row.batch_size) for row in rows] == [
        (1, 1),
        (2, 1),
        *((1, batch) for batch in (2, 4, 8, 16, 32)),
    ]
    assert rows[1].seconds == 0.001
    assert machine.runs.count((1, 1)) == 5


@pytest.mark.parametrize(
    ("seconds", "limit", "sizes"),
    [
        (0.001, 32, [1, 16]),
        (0.001, 3, [1, 3]),
        (0.001, 1, [1]),
        (0.012, 32, [1, 6]),
        (0.033, 32, [1, 2]),
        (0.09, 32, [1]),
    ],
)
async def test_on_a_cpu_a_batch_of_limited_duration_is_measured(seconds, limit, sizes):
    machine = Machine(lambda threads, batch: seconds * batch)
    rows = await calibrate(machine, [1], limit, True)
    assert [row.batch_size for row in rows] == sizes


async def test_no_batch_exceeds_the_limit():
    rows = await calibrate(Machine(lambda threads, batch: 0.001), [1], 6, False, budget_seconds=10)
    assert [row.batch_size for row in rows] == [1, 2, 4]


async def test_a_slow_model_is_measured_once_per_thread_count():
    machine = Machine(lambda threads, batch: 1.0 * batch)
    rows = await calibrate(machine, [1, 2], 64, False, budget_seconds=0.3)
    assert [(row.threads, row.batch_size) for row in rows] == [(1, 1), (2, 1)]
    assert machine.runs == [(1, 1), (2, 1)]


async def test_the_median_of_the_rounds_counts():
    times = iter([0.5, 0.1, 0.3, 0.2, 0.4])
    machine = Machine(lambda threads, batch: next(times))
    (row,) = await calibrate(machine, [1], 1, False, budget_seconds=10)
    assert row.seconds == 0.3


class CountingSession:
    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, images: list, outputs: list) -> list:
        self.batches.append(len(images))
        return [np.stack(images)[:, 0, 0, 0] for _ in outputs]


IMAGE = np.zeros((2, 2, 3), np.uint8)


async def test_the_bench_prepares_and_runs_images_on_every_core():
    prepared: list[int] = []

    def prepare():
        prepared.append(1)
        return IMAGE

    narrow, wide = CountingSession(), CountingSession()
    sessions = GraphSessions({1: narrow, 4: wide}, lambda _: None)
    bench = Bench(sessions, prepare, ["labels"], Device(4), is_on_cpu=True)
    assert await bench.seconds(1, 2) > 0
    assert narrow.batches == [2] * 4
    assert len(prepared) == 8
    assert await bench.seconds(4, 1) > 0
    assert wide.batches == [1]


class SleepingSession(CountingSession):
    def run(self, images: list, outputs: list) -> list:
        time.sleep(0.05)
        return super().run(images, outputs)


async def test_a_run_of_one_thread_is_timed_without_what_delays_it():
    session = SleepingSession()
    sessions = GraphSessions({1: session, 2: session}, lambda _: None)
    bench = Bench(sessions, lambda: IMAGE, ["labels"], Device(2), is_on_cpu=True)
    assert await bench.seconds(1, 1) < 0.05 <= await bench.seconds(2, 1)


async def test_the_bench_runs_a_new_shape_once_on_each_gpu():
    gpus = [CountingSession(), CountingSession()]
    sessions = GraphSessions({1: SessionGroup(gpus)}, lambda _: None)
    bench = Bench(sessions, lambda: IMAGE, ["labels"], Device(2), is_on_cpu=False)
    await bench._warm_up(1, 4)
    assert [gpu.batches for gpu in gpus] == [[4], [4]]
    await bench._warm_up(1, 4)
    assert [gpu.batches for gpu in gpus] == [[4], [4]]


ROWS = [Measurement(threads=1, batch_size=1, seconds=0.5)]


KEY = {"graph": "a", "threads": [1], "max_batch_size": 4}


def test_measurements_are_kept_on_disk_by_their_key(tmp_path):
    cache = CalibrationCache(tmp_path / "new")
    assert cache.read(KEY) is None
    cache.write({**KEY, "slots": 2}, ROWS)
    assert CalibrationCache(tmp_path / "new").read({"slots": 2, **KEY}) == ROWS
    assert cache.read({**KEY, "slots": 4}) is None
    assert len(list((tmp_path / "new").iterdir())) == 1


@pytest.mark.parametrize(
    "text",
    [
        "[{",
        "[]",
        '[{"threads": 1, "batch_size": 1, "seconds": -1}]',
        '[{"threads": 1, "batch_size": 1, "seconds": 1e300}]',
        '[{"threads": 99, "batch_size": 1, "seconds": 0.1}]',
        '[{"threads": 1, "batch_size": 0, "seconds": 0.1}]',
        '[{"threads": 1, "batch_size": 2, "seconds": 0.1}]',
        '[{"threads": 1, "batch_size": 1, "seconds": 1},'
        ' {"threads": 1, "batch_size": 9, "seconds": 1}]',
    ],
)
def test_a_file_of_nonsense_is_ignored(tmp_path, text):
    CalibrationCache(tmp_path).write(KEY, ROWS)
    (file,) = tmp_path.iterdir()
    file.write_text(text)
    assert CalibrationCache(tmp_path).read(KEY) is None


def test_without_a_folder_measurements_are_kept_in_memory():
    cache = CalibrationCache(None)
    assert cache.read({"graph": "a"}) is None
    cache.write({"graph": "a"}, ROWS)
    assert cache.read({"graph": "a"}) == ROWS
    assert CalibrationCache(None).read({"graph": "a"}) is None


def test_a_folder_that_cannot_be_written_is_logged(tmp_path):
    (tmp_path / "file").touch()
    with structlog.testing.capture_logs() as lines:
        CalibrationCache(tmp_path / "file").write({}, ROWS)
    assert [line["event"] for line in lines] == ["calibration_not_kept"]
