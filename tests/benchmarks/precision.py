"""Compare the speed of int8 with fp32, and of Visual Transformers with the networks they replace.

    python -m tests.benchmarks.precision

runs the shipped graphs and those of their baselines in turns, one image at a time on one thread,
and prints medians. The baselines are untrained, because weights do not change the time. Each ratio
is taken within a round, so that a temporary slowdown of the machine affects both sides."""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import Version, open_version
from model_export.graphs.int8 import int8_graph
from model_export.graphs.trace import export_graph
from model_export.models.registry import build, dimensions_of
from model_export.models.served import served

BASELINES = {"vt_resnet18_imagenette": "resnet18", "vt_fpn_camvid": "fpn_resnet18"}
Runner = Callable[[], object]


def main() -> None:
    """Print a table per model; write the numbers as JSON if a file is given."""
    options = _options()
    results = {}
    for name, baseline in BASELINES.items():
        version = open_version(options.weights_dir, name)
        with tempfile.TemporaryDirectory() as folder:
            runners = _runners(version, baseline, Path(folder), options.threads)
            milliseconds = _measure(runners, options.rounds)
        results[name] = _summary(milliseconds, name, baseline)
        _print(name, results[name])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--weights-dir", type=Path, default=Path("weights"))
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def _runners(version: Version, baseline: str, folder: Path, threads: int) -> Mapping[str, Runner]:
    """Return each graph by `model precision`, ready to run one image."""
    plain, plain_int8 = folder / "baseline.onnx", folder / "baseline.int8.onnx"
    _export_untrained(version, baseline, plain)
    plain_int8.write_bytes(int8_graph(plain, version.preprocessing, version.examples))
    graphs = {
        f"{version.name} fp32": version.graph("fp32"),
        f"{version.name} int8": version.graph("int8"),
        f"{baseline} fp32": plain,
        f"{baseline} int8": plain_int8,
    }
    height, width = version.preprocessing.common_size
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3)).astype(np.uint8)
    return {label: _runner(graph, image, threads) for label, graph in graphs.items()}


def _export_untrained(version: Version, baseline: str, path: Path) -> None:
    torch.manual_seed(0)
    dimensions = dimensions_of(baseline, classes=version.dimensions.classes)
    preprocessing = version.preprocessing
    model = served(build(dimensions), preprocessing.mean, preprocessing.std)
    export_graph(model, dimensions.task, preprocessing.common_size, path)


def _runner(graph: Path, image: np.ndarray, threads: int) -> Runner:
    predict = graph_predictor(graph, threads=threads, answer_only=True)
    return lambda: predict(image)


def _measure(runners: Mapping[str, Runner], rounds: int) -> dict[str, list[float]]:
    """Return the milliseconds of every runner in every round, forwards and backwards in turns."""
    milliseconds: dict[str, list[float]] = {label: [] for label in runners}
    for index in range(rounds + 2):
        for label in sorted(runners, reverse=bool(index % 2)):
            start = time.perf_counter()
            runners[label]()
            milliseconds[label].append(1000 * (time.perf_counter() - start))
    return {label: values[2:] for label, values in milliseconds.items()}


def _summary(
    milliseconds: Mapping[str, list[float]], name: str, baseline: str
) -> dict[str, dict[str, float]]:
    def ratio(one: str, other: str) -> float:
        pairs = zip(milliseconds[one], milliseconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    return {
        "milliseconds": {label: statistics.median(v) for label, v in milliseconds.items()},
        "throughput of int8 over fp32": {
            model: ratio(f"{model} fp32", f"{model} int8") for model in (name, baseline)
        },
        f"throughput of {name} over {baseline}": {
            precision: ratio(f"{baseline} {precision}", f"{name} {precision}")
            for precision in ("fp32", "int8")
        },
    }


def _print(name: str, summary: Mapping[str, Mapping[str, float]]) -> None:
    print(f"\n{name}")
    for title, values in summary.items():
        print(f"  {title}")
        for label, value in values.items():
            print(f"    {label:32} {value:8.2f}")


if __name__ == "__main__":
    main()
