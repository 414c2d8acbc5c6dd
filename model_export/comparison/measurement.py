"""Parity, batch invariance and latency of a graph on an execution provider."""

import platform
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_export.comparison.parity import Comparison, Differences, Parity, compare, inputs
from model_export.comparison.predictors import graph_predictor
from model_export.execution_providers import CUDA
from model_export.preprocessing import RgbArray

INVARIANCE_BATCH = 8
LATENCY_RUNS = 15


def measure(comparison: Comparison) -> tuple[Parity, dict[str, Any]]:
    """Compare and time a graph; returns the parity and the provider's certificate section."""
    parity = compare(comparison)
    images = _photos_and_noise(comparison, INVARIANCE_BATCH)
    section = {
        "parity": parity.as_dict(),
        "batch_invariance": batch_invariance(comparison, images),
        "latency": latency(comparison, images[:1]),
    }
    return parity, section


def batch_invariance(comparison: Comparison, images: RgbArray) -> dict[str, Any]:
    """The difference between the outputs of a batch `[B, H, W, 3]` and those of single images."""
    predict = graph_predictor(comparison.graph, comparison.provider)
    together = predict(images)
    differences = Differences()
    for index in range(len(images)):
        alone = predict(images[index : index + 1])
        differences.add(alone, {name: v[index : index + 1] for name, v in together.items()})
    return {
        "batches": [1, len(images)],
        "max_absolute_difference": differences.largest,
        "agreement": differences.agreement,
    }


def latency(
    comparison: Comparison, image: RgbArray, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Any]:
    """Median time of one image `[1, H, W, 3]`; a CPU uses one thread."""
    predict = graph_predictor(comparison.graph, comparison.provider, threads=1, answer_only=True)
    seconds = _median_seconds(lambda: predict(image), clock)
    return {
        "batch": 1,
        "size": list(image.shape[1:3]),
        "intra_op_num_threads": 1,
        "milliseconds": round(1000 * seconds, 2),
        "processor": _processor(comparison.provider),
    }


def _median_seconds(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """The median time of a run, after one that warms up."""
    run()
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = clock()
        run()
        seconds.append(clock() - start)
    return float(np.median(seconds))


def _processor(provider: str) -> str:
    if provider == CUDA and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.is_file() else None
    return named[1] if named else platform.machine()


def _photos_and_noise(comparison: Comparison, count: int) -> RgbArray:
    """Images of the common size, UINT8 `[count, H, W, 3]`."""
    sizes = [comparison.preprocessing.common_size]
    batches = inputs(comparison.preprocessing, comparison.photos[:count], [count], sizes)
    return next(batches)
