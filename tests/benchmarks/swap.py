"""Measure the effect of swapping model versions on other requests.

    python -m tests.benchmarks.swap

The service runs under a constant load of half its capacity. First there are some seconds without a
swap. Then a second version of the model takes over from the first and hands back to it, repeatedly.
The graphs of the versions have different hashes, so each is measured when it is first loaded."""

import argparse
import asyncio
import hashlib
import json
import shutil
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import uvloop

from tests.benchmarks.load import Results, closed_loop, connect, open_loop, post
from tests.benchmarks.servers import CLASSIFIER, SEGMENTER, Case, Server, named_case, service

SHARE = 0.5
"""Load, as a share of the throughput of 16 connections."""
CONNECTIONS = 16
TURNS = 5
"""Number of turns with and without swaps, which the machine's variation affects equally."""


def write_two_versions(entry: Path, folder: Path) -> Path:
    """Copy an entry, with a second version whose graphs have another name; serve the first."""
    copy = folder / entry.name
    shutil.copytree(entry, copy)
    shutil.copytree(copy / "1", copy / "2")
    path = copy / "2" / "certificate.json"
    certificate = json.loads(path.read_text())
    for graph in (copy / "2").glob("*.onnx"):
        certificate["files"][graph.name]["sha256"] = _rename(graph)
    path.write_text(json.dumps(certificate | {"version": "2"}))
    config = json.loads((copy / "config.json").read_text())
    config["version_policy"] = {"specific": {"versions": [1]}}
    config["versions"]["2"] = {"certificate_sha256": _sha256(path)}
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def _rename(graph: Path) -> str:
    model = onnx.load(graph, load_external_data=False)
    model.graph.name += " 2"
    graph.write_bytes(model.SerializeToString())
    return _sha256(graph)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def swap(server: Server, model: str, rounds: int) -> list[float]:
    """Swap to the second version and back; return the seconds that each swap took."""
    seconds = []
    key = server.local_key_file.read_text()
    connection = await connect(server.port)
    for version in [2, 1] * rounds:
        config = json.dumps({"version_policy": {"specific": {"versions": [version]}}})
        body = json.dumps({"parameters": {"config": config}}).encode()
        started = time.perf_counter()
        request = post(f"/v2/repository/models/{model}/load", body, X_API_Key=key)
        status = await connection.ask(request)
        if status != 200:
            raise SystemExit(f"version {version} was not loaded: {connection.body.decode()}")
        seconds.append(time.perf_counter() - started)
    await connection.close()
    return seconds


async def under_swaps(
    server: Server, case: Case, rate: float, rounds: int, seed: int
) -> tuple[Results, list[float]]:
    """Apply the load for exactly as long as the swaps take."""
    swaps = asyncio.create_task(swap(server, case.folder.name, rounds))
    results = Results()
    while not swaps.done():
        seed += 1
        part = await open_loop(server.port, case.request(), rate, 1.0, seed=seed)
        results.join(part)
    return results, await swaps


def measure(server: Server, case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure without and with swaps at the same rate; return the medians of the turns."""
    port = server.port
    run = closed_loop(port, case.request(), CONNECTIONS, seconds)
    rate = SHARE * uvloop.run(run).throughput
    quiet, swapped, swaps, memory = list[Results](), list[Results](), list[float](), list[float]()
    for turn in range(TURNS):
        seed = 1000 * turn
        quiet.append(uvloop.run(open_loop(port, case.request(), rate, seconds, seed=seed)))
        memory.append(server.memory())
        results, took = uvloop.run(under_swaps(server, case, rate, rounds // TURNS, seed))
        swapped.append(results)
        swaps += took
    before, after = memory[0], server.memory()
    pairs = zip(quiet, swapped, strict=True)
    ratios = [loud.percentile(99) / still.percentile(99) for still, loud in pairs]
    statuses = sum((each.statuses for each in quiet + swapped), Counter[int]())
    return {
        "requests_per_second": round(rate, 1),
        "requests_during_swaps": sum(each.statuses.total() for each in swapped),
        "failed_requests": statuses.total() - statuses[200],
        "quiet_p50_ms": _median_ms(quiet, 50),
        "swap_p50_ms": _median_ms(swapped, 50),
        "quiet_p99_ms": _median_ms(quiet, 99),
        "swap_p99_ms": _median_ms(swapped, 99),
        "swap_over_quiet_p99": round(statistics.median(ratios), 2),
        "worst_ratio": round(max(ratios), 2),
        "swap_seconds": round(sum(swaps) / len(swaps), 2),
        "memory_before_mb": round(before, 1),
        "memory_after_mb": round(after, 1),
        "memory_growth": round(after / before - 1, 3),
    }


def _median_ms(turns: Sequence[Results], percent: int) -> float:
    """Return the median of the turns' percentiles."""
    return round(statistics.median(each.percentile(percent) for each in turns) * 1000, 1)


def main() -> None:
    """Print a table for each model."""
    options = _options()
    for name in options.models:
        with tempfile.TemporaryDirectory() as folder:
            case = named_case(options.weights_dir, Path(folder), name, options.precision)
            case = replace(case, folder=write_two_versions(case.folder, Path(folder)))
            with service(case) as server:
                result = measure(server, case, options.rounds, options.seconds)
        print(f"\n{name} {options.precision}")
        for key, value in result.items():
            print(f"  {key:24} {value:9}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--models", nargs="*", default=[CLASSIFIER, SEGMENTER])
    parser.add_argument("--precision", default="int8")
    parser.add_argument(
        "--rounds", type=int, default=10, help="total number of swaps there and back"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="duration of each turn without swaps"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
