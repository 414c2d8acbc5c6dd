"""Measure what front-end processes cost and give, without a GPU.

    python -m tests.benchmarks.frontends [--seconds 4] [--json FILE]

The engine alone, with batches of 32: this process sends it descriptors of images that are already
in cells, as front ends do, and the device is a stand-in. A batch of B images takes 200 + 25 * B
microseconds, or nothing, and does not hold the interpreter. The engine's processor time per image
is that of its process.

Then whole services with the model that costs nothing: one process, and one or two front ends, under
saturation and at twice what they reach. Client and service share the cores."""

import argparse
import asyncio
import itertools
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from service.batching.queue import Urgency
from service.engine.engine import Engine
from service.frontends.board import BOARD_BYTES, Board
from service.frontends.cells import Cells
from service.frontends.hub import Hub
from service.frontends.link import Link
from service.frontends.memory import create_memory, map_memory
from service.images.decode import ImageLimits
from service.images.photo import PreparedImage, prepare
from service.schema.files import read_contract
from service.schema.model_status import Measurement
from service.settings import Settings
from tests.benchmarks.load import closed_loop, open_loop
from tests.benchmarks.servers import Case, Server, named_case, service
from tests.benchmarks.stand_in import FREE, write_stand_in
from tests.service.conftest import Loader, ReplaceableSession

BATCH = 32
ARENA_BYTES = 64 << 20
CONNECTIONS = 64
Json = dict[str, Any]


class StandIn:
    """A device that sleeps instead of computing, and notes when it works."""

    def __init__(self, base_us: float, image_us: float) -> None:
        self._base_us, self._image_us = base_us, image_us
        self.runs: list[tuple[float, float, int]] = []

    def run(self, images: Sequence[np.ndarray], outputs: Sequence[str]) -> list[np.ndarray]:
        """Answer a batch after its time."""
        began = time.perf_counter()
        seconds = (self._base_us + self._image_us * len(images)) / 1e6
        if seconds:
            time.sleep(seconds)
        self.runs.append((began, time.perf_counter(), len(images)))
        return [np.zeros((len(images), 10), np.float32) for _ in outputs]


async def _measured(
    _: object, threads: Sequence[int], size: int, _on_cpu: bool
) -> list[Measurement]:
    sizes = [1, 2, 4, 8, 16, BATCH]
    return [
        Measurement(threads=threads[0], batch_size=each, seconds=(200 + 25 * each) / 1e6)
        for each in sizes
        if each <= size
    ]


def engine_alone(folder: Path, seconds: float, base_us: float, image_us: float) -> Json:
    """Measure the engine with descriptors from a thread's own event loop, as from a front end."""
    own, engines = socket.socketpair()
    arena, board = create_memory("arena", ARENA_BYTES), create_memory("board", BOARD_BYTES)
    device = StandIn(base_us, image_us)
    started, stop = threading.Event(), threading.Event()
    found: Json = {}

    async def serve() -> None:
        loader = Loader(ReplaceableSession, calibrate=_measured)
        settings = Settings(model_repository=folder, max_batch_size=BATCH, max_batch_seconds=1)
        engine = Engine.from_settings(settings, cores=1, load_instance=loader)
        await engine.repository.load_all()
        instance = engine.repository.get(FREE.name).ready_instance()
        for session in loader.sessions(instance):
            session.run_instead = device.run
        hub = Hub(engine, Board(board, 1), lambda _: None)
        await hub.join(engines, 0, np.frombuffer(map_memory(arena), np.uint8))
        started.set()
        await asyncio.to_thread(stop.wait)
        hub.abort()
        await engine.close()

    child = os.fork()
    if child == 0:
        uvloop.run(_drive(own, arena, seconds))
        os._exit(0)
    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    started.wait()
    time.sleep(1)
    device.runs.clear()
    cpu = time.process_time()
    time.sleep(seconds)
    cpu = time.process_time() - cpu
    runs = list(device.runs)
    os.waitpid(child, 0)
    stop.set()
    thread.join()
    return found | _summary(runs, cpu)


def _summary(runs: list[tuple[float, float, int]], cpu: float) -> Json:
    images = sum(count for _, _, count in runs)
    wall = runs[-1][1] - runs[0][0]
    busy = sum(end - begin for begin, end, _ in runs)
    gaps = [max(0.0, after[0] - before[1]) for before, after in itertools.pairwise(runs)]
    return {
        "images_per_second": round(images / wall),
        "mean_batch": round(images / len(runs), 1),
        "engine_cpu_us_per_image": round(cpu / images * 1e6, 1),
        "device_idle_share": round(1 - busy / wall, 3),
        "gap_us_median": round(statistics.median(gaps) * 1e6),
    }


class _Driver:
    """Sends descriptors as a front end does, without HTTP and without decoding."""

    def __init__(self) -> None:
        self.instance: int | None = None
        self.link = Link(self)

    async def perform(self, name: str, arguments: Json) -> Any:
        """Report nothing."""
        return {"increments": [], "statistics": [], "unavailable": [], "files": {}} | {
            "certificate_ends_at": None
        }

    def update(self, state: Any) -> None:
        """Note the number of the instance."""
        for model in state.models:
            for version in model.versions:
                self.instance = version.instance and version.instance.number

    def make_room(self, port: int) -> None:
        """Ignore."""

    def stop(self) -> None:
        """Ignore."""

    def lost(self) -> None:
        """Ignore."""


async def _drive(own: socket.socket, arena: int, seconds: float) -> None:
    driver = _Driver()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: driver.link.channel, sock=own)
    await driver.link.has_state.wait()
    cells = Cells(map_memory(arena))
    pixels = np.zeros((FREE.side, FREE.side, 3), np.uint8)
    ends = loop.time() + seconds + 3

    async def caller() -> None:
        image = cells.place(PreparedImage(pixels, FREE.side, FREE.side))
        while loop.time() < ends:
            urgency = Urgency(loop.time() + 30, is_default_deadline=True)
            assert driver.instance is not None
            await driver.link.predict(driver.instance, [image], ("logits",), 1, urgency)

    await asyncio.gather(*(caller() for _ in range(3 * BATCH)))


def cpu_by_process(server: Server) -> dict[str, float]:
    """Return the processor seconds of the processes of a service, by their names."""
    found: dict[str, float] = {}
    pid = server.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in [str(pid), *children]:
        name = Path(f"/proc/{each}/cmdline").read_text().rstrip("\0").rpartition("\0")[2]
        tasks = Path(f"/proc/{each}/task").iterdir()
        seconds = sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9
        name = name if name in ("engine", "front_end") else "supervisor"
        found[name] = found.get(name, 0.0) + seconds
    return found


def whole_service(case: Case, front_ends: int, seconds: float) -> Json:
    """Measure a service at saturation and at twice that rate."""
    os.environ["VT_FRONTENDS"] = str(front_ends)
    with service(case) as server:
        request = case.request(X_Request_Timeout_Ms="1000")
        uvloop.run(closed_loop(server.port, request, CONNECTIONS, 1))
        before = cpu_by_process(server)
        closed = uvloop.run(closed_loop(server.port, request, CONNECTIONS, seconds))
        spent = {name: value - before[name] for name, value in cpu_by_process(server).items()}
        count = len(closed.latencies)
        overload = uvloop.run(open_loop(server.port, request, 2 * closed.throughput, seconds))
    del os.environ["VT_FRONTENDS"]
    return {
        "requests_per_second": round(closed.throughput),
        "p99_ms": round(closed.percentile(99) * 1000, 1),
        **{f"{name}_cpu_us": round(value / count * 1e6) for name, value in spent.items()},
        "at_200_percent": {
            "goodput": round(overload.goodput(1.0)),
            "p99_ms": round(overload.percentile(99) * 1000, 1),
            "statuses": {str(key): value for key, value in sorted(overload.statuses.items())},
        },
    }


def decode_us(case: Case) -> float:
    """Return the processor time of decoding the photo alone."""
    preprocessing, limits = read_contract(case.folder).preprocessing, ImageLimits(50_000_000)
    began, rounds = time.process_time(), 2000
    for _ in range(rounds):
        prepare(case.photo, preprocessing, limits)
    return round((time.process_time() - began) / rounds * 1e6)


def main() -> None:
    """Print the measurements; write them as JSON if a file is given."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results: Json = {}
    with tempfile.TemporaryDirectory() as folder:
        write_stand_in(Path(folder), FREE, BATCH)
        for name, cost in (("device of 200 + 25 B us", (200, 25)), ("device of 0 us", (0, 0))):
            results[name] = engine_alone(Path(folder), options.seconds, *cost)
            print(name, json.dumps(results[name]), flush=True)
        case = named_case(options.weights_dir, Path(folder), FREE.name, "fp32")
        results["decode_us"] = decode_us(case)
        print("decoding alone, us:", results["decode_us"], flush=True)
        for count in (0, 1, 2):
            name = f"{count} front ends"
            results[name] = whole_service(case, count, options.seconds)
            print(name, json.dumps(results[name]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
