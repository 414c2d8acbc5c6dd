"""Compare the service with the capacity of the machine, and measure it under load.

    make bench            (python -m tests.benchmarks.serve)

For each model, four candidates run in turns: the ceiling, the service, a plain FastAPI server and
mosec with the same graph. The ceiling decodes, preprocesses and calls `session.run` in a plain loop
without HTTP, on one wide session or on a narrow one per core, whichever is faster. Then the service
runs alone under closed and open loops. Client and server share the cores of the machine."""

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import uvloop

from service.images.photo import prepare
from service.runtime.container_limits import usable_cores
from service.schema.files import read_contract
from tests.benchmarks.load import Results, closed_loop, open_loop
from tests.benchmarks.servers import (
    CLASSIFIER,
    LIMITS,
    SEGMENTER,
    STAND_INS,
    Case,
    Server,
    named_case,
    service,
    yardstick,
)
from tests.benchmarks.stand_in import FREE, LIGHT, write_stand_in
from tests.benchmarks.yardstick import plain_session

DEADLINE = 1.0
CONNECTIONS = (1, 4, 16, 64)
OFFERED = (0.25, 0.5, 0.75, 0.9, 1.2, 2.0, 4.0)
SATURATED = 16
CASES = (
    (CLASSIFIER, "int8"),
    (CLASSIFIER, "fp32"),
    (SEGMENTER, "int8"),
    (LIGHT.name, "fp32"),
    (FREE.name, "fp32"),
)


@dataclass(frozen=True)
class Ceiling:
    """The capacity of the machine without a server."""

    throughput: float
    milliseconds: float
    cpu_milliseconds: float


class PlainLoop:
    """Decodes, preprocesses and runs, on one wide session or on one narrow session per core."""

    def __init__(self, case: Case) -> None:
        contract = read_contract(case.folder)
        self._photo, self._prediction = case.photo, contract.prediction
        self._preprocessing, self._cores = contract.preprocessing, usable_cores()
        self._sessions = {
            threads: plain_session(case.folder, contract, case.precision, threads, spin=False)
            for threads in {1, self._cores}
        }
        for threads in self._sessions:
            self._answer(threads)

    def measure(self, seconds: float) -> Ceiling:
        """Return the better throughput of the two, and the time of one image on all cores."""
        single = self._latency(seconds / 4)
        narrow = self._throughput(1, self._cores, seconds / 2)
        wide = self._throughput(self._cores, 1, seconds / 4)
        best = max(narrow, wide, key=lambda each: each[0])
        return Ceiling(best[0], single * 1000, best[1] * 1000)

    def _answer(self, threads: int) -> np.ndarray[Any, Any]:
        image = prepare(self._photo, self._preprocessing, LIMITS)
        inputs = {"images": image.pixels[None]}
        output: np.ndarray[Any, Any] = self._sessions[threads].run([self._prediction], inputs)[0]
        return output

    def _latency(self, seconds: float) -> float:
        times = []
        ends = time.perf_counter() + seconds
        while (started := time.perf_counter()) < ends:
            self._answer(self._cores)
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def _throughput(self, threads: int, loops: int, seconds: float) -> tuple[float, float]:
        counts = [0] * loops
        started, cpu = time.perf_counter(), time.process_time()

        def loop(index: int) -> None:
            while time.perf_counter() < started + seconds:
                self._answer(threads)
                counts[index] += 1

        workers = [threading.Thread(target=loop, args=(index,)) for index in range(loops)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        images = sum(counts)
        return images / (time.perf_counter() - started), (time.process_time() - cpu) / images


@dataclass(frozen=True)
class Saturated:
    """A server with enough connections to keep it busy."""

    throughput: float
    cpu_milliseconds: float
    client_cpu_milliseconds: float
    """CPU time that generating the load takes on the same cores."""


def _saturated(server: Server, request: bytes, seconds: float) -> Saturated:
    uvloop.run(closed_loop(server.port, request, SATURATED, seconds / 4))
    cpu, client_cpu = server.cpu_seconds(), time.process_time()
    results = uvloop.run(closed_loop(server.port, request, SATURATED, seconds))
    used, client_used = server.cpu_seconds() - cpu, time.process_time() - client_cpu
    _require_good(results)
    per_request = 1000 / len(results.latencies)
    return Saturated(results.throughput, used * per_request, client_used * per_request)


def _single_milliseconds(server: Server, request: bytes, seconds: float) -> float:
    """Return the median of one connection, after the service has adapted to the lower load."""
    for _ in range(2):
        results = uvloop.run(closed_loop(server.port, request, 1, seconds))
    return results.percentile(50) * 1000


def _require_good(results: Results) -> None:
    if set(results.statuses) != {200}:
        raise SystemExit(f"not every response was successful: {dict(results.statuses)}")


def compare(case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Run ceiling, service and yardsticks in turns; return the medians of the rounds."""
    loop, request = PlainLoop(case), case.request()
    rows: list[tuple[Ceiling, Saturated, float, Saturated, Saturated]] = []
    with (
        service(case) as ours,
        yardstick(case) as plain,
        yardstick(case, "mosec_yardstick") as mosec,
    ):
        for _ in range(rounds):
            ceiling = loop.measure(seconds)
            served = _saturated(ours, request, seconds)
            others = [_saturated(each, request, seconds) for each in (mosec, plain)]
            single = _single_milliseconds(ours, request, seconds / 2)
            rows.append((ceiling, served, single, others[1], others[0]))

    def median(value: Callable[[Ceiling, Saturated, float, Saturated, Saturated], float]) -> float:
        return round(statistics.median(value(*row) for row in rows), 3)

    return {
        "ceiling_per_second": median(lambda c, s, one, y, m: c.throughput),
        "service_per_second": median(lambda c, s, one, y, m: s.throughput),
        "yardstick_per_second": median(lambda c, s, one, y, m: y.throughput),
        "mosec_per_second": median(lambda c, s, one, y, m: m.throughput),
        "service_over_ceiling": median(lambda c, s, one, y, m: s.throughput / c.throughput),
        "service_over_yardstick": median(lambda c, s, one, y, m: s.throughput / y.throughput),
        "service_over_mosec": median(lambda c, s, one, y, m: s.throughput / m.throughput),
        "ceiling_single_ms": median(lambda c, s, one, y, m: c.milliseconds),
        "service_single_ms": median(lambda c, s, one, y, m: one),
        "single_difference_ms": median(lambda c, s, one, y, m: one - c.milliseconds),
        "ceiling_cpu_ms": median(lambda c, s, one, y, m: c.cpu_milliseconds),
        "service_cpu_ms": median(lambda c, s, one, y, m: s.cpu_milliseconds),
        "client_cpu_ms": median(lambda c, s, one, y, m: s.client_cpu_milliseconds),
        "yardstick_cpu_ms": median(lambda c, s, one, y, m: y.cpu_milliseconds),
        "mosec_cpu_ms": median(lambda c, s, one, y, m: m.cpu_milliseconds),
        "cpu_over_ceiling": median(lambda c, s, one, y, m: s.cpu_milliseconds / c.cpu_milliseconds),
        "cpu_over_yardstick": median(
            lambda c, s, one, y, m: s.cpu_milliseconds / y.cpu_milliseconds
        ),
        "cpu_over_mosec": median(lambda c, s, one, y, m: s.cpu_milliseconds / m.cpu_milliseconds),
    }


def loops(case: Case, seconds: float) -> dict[str, Any]:
    """Measure the service under closed and open loops."""
    rows: dict[str, Any] = {}
    request = case.request(X_Request_Timeout_Ms=str(round(DEADLINE * 1000)))
    with service(case) as server:
        for connections in CONNECTIONS:
            row = _loaded(server, closed_loop(server.port, case.request(), connections, seconds))
            rows[f"closed {connections}"] = row
        capacity = max(row["per_second"] for row in rows.values())
        for share in OFFERED:
            run = open_loop(server.port, request, share * capacity, 2 * seconds)
            rows[f"open {share:.0%}"] = _loaded(server, run)
            rows[f"open {share:.0%}"]["goodput_over_capacity"] = round(
                rows[f"open {share:.0%}"]["goodput"] / capacity, 3
            )
        peak = server.memory("VmHWM")
    return {"rows": rows, "capacity_per_second": capacity, "peak_memory_mb": round(peak)}


def tail(case: Case, seconds: float, rounds: int, share: float = 0.75) -> dict[str, Any]:
    """Compare the latency of the service and of mosec in an open loop, in turns.

    The load is a share of what mosec serves, or of what the service serves if that is less.
    """
    request, rows = case.request(), list[tuple[Results, Results]]()
    with service(case) as ours, yardstick(case, "mosec_yardstick") as mosec:
        capacity = min(_saturated(each, request, seconds).throughput for each in (ours, mosec))
        for seed in range(rounds):
            runs = [
                uvloop.run(open_loop(each.port, request, share * capacity, 2 * seconds, seed=seed))
                for each in (ours, mosec)
            ]
            rows.append((runs[0], runs[1]))

    def median(percent: int, which: int) -> float:
        return round(statistics.median(row[which].percentile(percent) for row in rows) * 1000, 1)

    return {
        "offered_per_second": round(share * capacity, 1),
        "service_p50_ms": median(50, 0),
        "mosec_p50_ms": median(50, 1),
        "service_p99_ms": median(99, 0),
        "mosec_p99_ms": median(99, 1),
        "p99_over_mosec": round(
            statistics.median(ours.percentile(99) / mosec.percentile(99) for ours, mosec in rows), 3
        ),
    }


def _loaded(server: Server, run: Any) -> dict[str, Any]:
    batches, images = server.metric("vt_batch_size_count"), server.metric("vt_batch_size_sum")
    cpu = server.cpu_seconds()
    results: Results = uvloop.run(run)
    cpu = server.cpu_seconds() - cpu
    batches = server.metric("vt_batch_size_count") - batches
    images = server.metric("vt_batch_size_sum") - images
    return {
        "per_second": round(results.throughput, 1),
        "goodput": round(results.goodput(DEADLINE), 1),
        "p50_ms": round(results.percentile(50) * 1000, 1),
        "p90_ms": round(results.percentile(90) * 1000, 1),
        "p99_ms": round(results.percentile(99) * 1000, 1),
        "statuses": {str(status): count for status, count in sorted(results.statuses.items())},
        "refusal_p99_ms": round(results.percentile(99, of_refusals=True) * 1000, 1),
        "mean_batch": round(images / max(1, batches), 2),
        "cpu_ms": round(cpu / max(1, images) * 1000, 2),
    }


def memory(case: Case, requests: int) -> dict[str, float]:
    """Return the resident memory after 1,000 requests and after all of them."""
    with service(case) as server:
        rate = _saturated(server, case.request(), 2).throughput
        sizes = []
        for count in (1000, requests - 1000):
            run = closed_loop(server.port, case.request(), SATURATED, count / rate)
            _require_good(uvloop.run(run))
            sizes.append(round(server.memory(), 1))
    return {"after_1000_mb": sizes[0], f"after_{requests}_mb": sizes[1]}


def main() -> None:
    """Print tables; write the numbers as JSON if a file is given."""
    options = _options()
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in STAND_INS.values():
            write_stand_in(Path(folder), model)
        for name, precision in CASES:
            if options.models and f"{name} {precision}" not in options.models:
                continue
            case = named_case(options.weights_dir, Path(folder), name, precision)
            result = compare(case, options.rounds, options.seconds)
            result |= tail(case, options.seconds, options.rounds)
            if not options.compare_only:
                result["load"] = loops(case, options.seconds)
            if options.memory_requests:
                result["memory"] = memory(case, options.memory_requests)
            results[f"{name} {precision}"] = result
            _print(f"{name} {precision}", result)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parser.add_argument("--models", nargs="*", metavar="'MODEL PRECISION'")
    parser.add_argument("--compare-only", action="store_true", help="skip the load curves")
    parser.add_argument(
        "--memory-requests", type=int, help="measure the memory over this many requests"
    )
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _print(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}")
    for key, value in result.items():
        if key not in ("load", "memory"):
            print(f"  {key:24} {value:9.3f}")
    if "memory" in result:
        print("  " + ", ".join(f"{key} {value}" for key, value in result["memory"].items()))
    if "load" not in result:
        return
    load = result["load"]
    columns = ("per_second", "goodput", "p50_ms", "p90_ms", "p99_ms", "mean_batch", "cpu_ms")
    print(f"  {'':12}" + "".join(f"{column:>12}" for column in columns) + "  refused (p99 ms)")
    for name, row in load["rows"].items():
        refused, late = (row["statuses"].get(status, 0) for status in ("429", "504"))
        numbers = "".join(f"{row[column]:12}" for column in columns)
        print(f"  {name:12}{numbers}  {refused} ({row['refusal_p99_ms']}), {late} late")
    print(f"  peak memory {load['peak_memory_mb']} MB")


if __name__ == "__main__":
    main()
