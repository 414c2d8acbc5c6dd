"""Measure the delay of the event loop and the memory in use under hostile images.

    python -m tests.benchmarks.hostile

The service runs with the shipped weights. It gets the files of `tests/service/hostile_images.py`,
broken copies of the example photos, and pictures as large as the limits allow. Meanwhile a
separate process requests `/v2/health/live` every 5 ms. Its wait is the delay of the event loop plus
the delay of the machine's scheduler. The same is measured on an idle server and under ordinary
photos, in turns, to tell the effect of the machine from that of the images. The quietest round
serves the same purpose.

Afterwards, without a server, each file is processed in one thread while another wants to run every
half millisecond. The time that the other cannot run is the time that the file holds the
interpreter, and so the event loop. The same is measured for the most expensive JSON of inference
requests. The minimum of several rounds counts, because the effect of the machine varies."""

import argparse
import asyncio
import io
import json
import multiprocessing
import random
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import uvloop
from PIL import Image

from service.errors import ServiceError
from service.images.decode import decode
from service.images.masks import mask_png, scale_labels
from service.images.overlays import PictureFormat, encode_picture, fits, overlay
from service.images.resize import resize
from service.images.run_lengths import run_lengths
from service.open_inference.bounded_json import parse_json
from service.open_inference.json_numbers import array_from_numbers
from service.schema.contract import Contract
from service.schema.files import read_contract
from service.settings import Settings
from tests.benchmarks.load import connect, post
from tests.benchmarks.servers import (
    CLASSIFIER,
    LIMITS,
    SEGMENTER,
    Case,
    Server,
    named_case,
    service,
)
from tests.service.hostile_images import MUTATIONS_OF_BYTES, corpus, mutated
from tests.service.open_inference.costly_json import COSTLY, NUMBERS

EXPECTED = {200, 400, 413, 415}
ROUTES = ("/v1/classify", "/v1/segment", "/v1/segment?mask=rle", "/v1/segment?overlay=true")
INFER = f"/v2/models/{CLASSIFIER}/infer"
LIVE = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
PROBE_SECONDS = 0.005
LATE_MILLISECONDS = 50
MUTATED = 300
LARGE_SIZES = ((4000, 3000), (8000, 6000))
TURNED = struct.pack("<IHHHIII", 8, 1, 0x0112, 3, 1, 6, 0)
LARGE_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "JPEG": ("RGB", {}),
    "progressive JPEG": ("RGB", {"progressive": True}),
    "JPEG turned": ("RGB", {"exif": b"Exif\0\0II*\0" + TURNED}),
    "PNG": ("RGB", {"compress_level": 1}),
    "PNG with alpha": ("RGBA", {"compress_level": 1}),
    "PNG palette": ("P", {"compress_level": 1}),
    "GIF": ("P", {}),
    "WebP": ("RGB", {"quality": 50, "method": 0}),
    "TIFF": ("CMYK", {"compression": "tiff_lzw"}),
}
PICTURES: tuple[PictureFormat, ...] = ("jpeg", "webp", "png")
PHOTOS = (8, 224, 224, 3)
WATCH_SECONDS = 0.0005
SHOWN = 8

Named = tuple[str, bytes]
Bodies = Sequence[Named]


def hostile_files(photos: Sequence[bytes]) -> Bodies:
    """Return every odd file and broken photos, always in the same order."""
    chance = random.Random(0)  # noqa: S311
    bodies = [(name, file.data) for name, file in corpus().items()]
    bodies += [
        (f"mutation {n}", mutated(chance.choice(photos), random_mutations(chance)))
        for n in range(MUTATED)
    ]
    chance.shuffle(bodies)
    return bodies


def random_mutations(chance: random.Random) -> list[tuple[str, float, bytes]]:
    """Return one to six changes of a file, for `mutated`."""
    return [
        (chance.choice(MUTATIONS_OF_BYTES), chance.random(), chance.randbytes(chance.randint(1, 8)))
        for _ in range(chance.randint(1, 6))
    ]


def large_files(photo: bytes) -> Bodies:
    """Return photos of 12 and 48 megapixels in every format that fits into a body."""
    bodies, largest = [], Settings.model_fields["max_body_bytes"].default
    for size in LARGE_SIZES:
        picture = Image.open(io.BytesIO(photo)).convert("RGB").resize(size)
        for name, (mode, options) in LARGE_FORMATS.items():
            file = io.BytesIO()
            picture.convert(mode).save(file, _format(name), **options)
            if len(file.getvalue()) <= largest:
                megapixels = size[0] * size[1] // 1_000_000
                bodies.append((f"{name}, {megapixels} megapixels", file.getvalue()))
    return bodies


def _format(name: str) -> str:
    return next(each for each in ("JPEG", "PNG", "GIF", "WebP", "TIFF") if each in name)


@dataclass
class Load:
    """The results of one kind of load, with the probe's waits in milliseconds by round."""

    statuses: Counter[int] = field(default_factory=Counter)
    unexpected: set[str] = field(default_factory=set)
    rounds: list[list[float]] = field(default_factory=list)

    def row(self) -> dict[str, Any]:
        """Return all waits, those of the quietest round, and the number of responses by status."""
        waits = np.concatenate(self.rounds)
        quietest = np.asarray(min(self.rounds, key=max))
        return {
            "median": _rounded(np.median(waits)),
            "p99": _rounded(np.percentile(waits, 99)),
            "max": _rounded(waits.max()),
            "late": _rounded(100 * np.mean(waits > LATE_MILLISECONDS)),
            "quiet p99": _rounded(np.percentile(quietest, 99)),
            "quiet max": _rounded(quietest.max()),
            "statuses": {str(each): answers for each, answers in sorted(self.statuses.items())},
            "unexpected": sorted(self.unexpected),
        }


def _rounded(value: Any) -> float:
    return round(float(value), 1)


def probe(port: int, seconds: float) -> list[float]:
    """Send a request every 5 ms from this process; return the wait for each response in ms.

    The wait counts from the time at which the request was due, so that a long delay affects all
    requests that were due meanwhile.
    """
    return uvloop.run(_probe(port, seconds))


async def _probe(port: int, seconds: float) -> list[float]:
    connection, waits = await connect(port), []
    started = due = time.perf_counter()
    while due < started + seconds:
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if await connection.ask(LIVE) != 200:
            raise SystemExit("the server is not live")
        waits.append((time.perf_counter() - due) * 1000)
        due += PROBE_SECONDS
    await connection.close()
    return waits


async def send(
    port: int, requests: Iterator[Named], connections: int, seconds: float, load: Load
) -> None:
    """Post bodies one after the other, on a number of connections."""
    ends = time.perf_counter() + seconds

    async def user() -> None:
        connection = await connect(port)
        while time.perf_counter() < ends:
            name, request = next(requests)
            status = await connection.ask(request)
            load.statuses[status] += 1
            if status not in EXPECTED:
                load.unexpected.add(f"{status} {name}")
            if not connection.usable:
                await connection.close()
                connection = await connect(port)
        await connection.close()

    await asyncio.gather(*(user() for _ in range(connections)))


def _requests(bodies: Bodies, routes: Sequence[str]) -> Iterator[Named]:
    """Yield requests with the bodies, repeatedly, to each route in turn."""
    for turn in count():
        for index, (name, body) in enumerate(bodies):
            route = routes[(index + turn) % len(routes)]
            yield f"{route} {name}", post(route, body)


def measure(
    server: Server, loads: dict[str, Bodies], options: argparse.Namespace
) -> dict[str, Any]:
    """Apply the loads in turns, probed from another process."""
    done = {name: Load() for name in loads}
    requests = {
        name: _requests(bodies, [INFER] if name == "JSON" else ROUTES)
        for name, bodies in loads.items()
    }
    part = options.seconds / options.rounds
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as prober:
        prober.submit(probe, server.port, 0.1).result()
        memory = {"start": server.memory()}
        for _ in range(options.rounds):
            for name, bodies in loads.items():
                waits = prober.submit(probe, server.port, part)
                if bodies:
                    connections = options.connections
                    uvloop.run(send(server.port, requests[name], connections, part, done[name]))
                done[name].rounds.append(waits.result())
        memory |= {"peak": server.memory("VmHWM"), "end": server.memory()}
    rows = {name: load.row() for name, load in done.items()}
    lags = [server.metric(f"vt_event_loop_lag_seconds_{each}") for each in ("sum", "count")]
    return {"loads": rows, "memory_mb": memory, "own_mean_lag_ms": 1000 * lags[0] / lags[1]}


def hold(call: Callable[[], object], rounds: int) -> float:
    """Return the milliseconds for which a call keeps other threads from running.

    The minimum of several rounds."""
    return min(_hold(call) for _ in range(rounds))


def _hold(call: Callable[[], object]) -> float:
    longest, ended, watching = 0.0, threading.Event(), threading.Event()

    def watch() -> None:
        nonlocal longest
        last = time.perf_counter()
        while not ended.is_set():
            time.sleep(WATCH_SECONDS)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
            watching.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    watching.wait()
    with suppress(ServiceError):
        call()
    ended.set()
    watcher.join()
    return longest * 1000


def holds(case: Case, bodies: Bodies, rounds: int) -> list[tuple[float, str]]:
    """Return the files that hold the interpreter longest when segmented, longest first."""
    work = partial(_segmented, read_contract(case.folder))
    once = ((hold(partial(work, data), 1), name, data) for name, data in bodies)
    first = sorted(once, reverse=True)[: 2 * SHOWN]
    again = [(min(least, hold(partial(work, data), rounds)), name) for least, name, data in first]
    return sorted(again, reverse=True)[:SHOWN]


def json_holds(rounds: int) -> list[tuple[float, str]]:
    """Return the inference requests whose JSON holds the interpreter longest, longest first."""
    found = (
        (hold(partial(_parsed, body), rounds), f"JSON: {name}")
        for name, body in (COSTLY | NUMBERS).items()
    )
    return sorted(found, reverse=True)[:SHOWN]


def _parsed(body: bytes) -> None:
    numbers = parse_json(body, None)[1]
    array_from_numbers(numbers, PHOTOS)


def _segmented(contract: Contract, data: bytes) -> None:
    """Process a file as the service does, without running the model."""
    photo = decode(data, contract.preprocessing, LIMITS)
    pixels = np.asarray(resize(photo, contract.preprocessing))
    output = pixels[:, :, 0] // 32
    labels = scale_labels(output, photo.width, photo.height)
    mask_png(labels, contract.colors)
    run_lengths(labels, contract.labels)
    picture = overlay(photo, labels, contract.colors)
    for wanted in PICTURES:
        if fits(wanted, *picture.size):
            encode_picture(picture, wanted)


def main() -> None:
    """Print the tables; exit with status 1 after an unexpected response."""
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        cases = [
            named_case(options.weights_dir, Path(folder), name, options.precision)
            for name in (CLASSIFIER, SEGMENTER)
        ]
    paths = sorted(options.weights_dir.glob("*/examples/*"))
    photos = [path.read_bytes() for path in paths]
    loads: dict[str, Bodies] = {
        "idle": [],
        "photos": [(path.name, data) for path, data in zip(paths, photos, strict=True)],
        "hostile": hostile_files(photos),
        "large": large_files(photos[0]),
        "JSON": [*(COSTLY | NUMBERS).items()],
    }
    with service(*cases) as server:
        result = measure(server, loads, options)
    bodies = [body for name, each in loads.items() for body in each if name != "JSON"]
    longest = holds(cases[1], bodies, options.hold_rounds)
    longest += json_holds(options.hold_rounds)
    result["longest_holds_ms"] = {name: round(each, 1) for each, name in longest}
    _print(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    unexpected = [name for row in result["loads"].values() for name in row["unexpected"]]
    if unexpected:
        raise SystemExit("\n".join(["unexpected responses:", *unexpected]))


def _print(result: dict[str, Any]) -> None:
    print("delay of /v2/health/live in ms; late: % over 50 ms; quiet: the quietest round")
    columns = ("median", "p99", "max", "late", "quiet p99", "quiet max")
    print(f"  {'':10}" + "".join(f"{column:>11}" for column in columns) + "  responses by status")
    for name, row in result["loads"].items():
        numbers = "".join(f"{row[column]:11}" for column in columns)
        print(f"  {name:10}{numbers}  {row['statuses'] or ''}")
    print(f"mean lag according to the server's own metric: {result['own_mean_lag_ms']:.1f} ms")
    print("memory in MB: " + ", ".join(f"{k} {v:.0f}" for k, v in result["memory_mb"].items()))
    print("files and JSON that hold the interpreter longest, in ms")
    for name, milliseconds in result["longest_holds_ms"].items():
        print(f"  {milliseconds:6.1f}  {name}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--seconds", type=float, default=30.0, help="duration of each load")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--hold-rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
