"""What a certificate says of a graph on an execution provider: parity, batches, latency."""

import platform
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from model_export.comparison.parity import Comparison, Differences, Parity, compare, inputs
from model_export.comparison.predictors import CUDA, graph_predictor, scores_predictor
from model_export.preprocessing import RgbArray

INVARIANCE_BATCH = 8
LATENCY_RUNS = 15


def measure(comparison: Comparison) -> tuple[Parity, dict[str, Any]]:
    """Compare, and time; returns the parity and a certificate's section on the provider."""
    parity = compare(comparison)
    images = _photos_and_noise(comparison, INVARIANCE_BATCH)
    section = {
        "parity": parity.as_dict(),
        "batch_invariance": batch_invariance(comparison, images),
        "latency": latency(comparison, images[:1]),
    }
    return parity, section


def batch_invariance(comparison: Comparison, images: RgbArray) -> dict[str, Any]:
    """How far an image's answer in a batch `[B, H, W, 3]` is from its answer alone."""
    predict = scores_predictor(comparison.graph, comparison.provider)
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


def latency(comparison: Comparison, image: RgbArray) -> dict[str, Any]:
    """Median milliseconds of one image `[1, H, W, 3]`, on one thread where it is the CPU."""
    predict = graph_predictor(comparison.graph, comparison.provider, threads=1, answer_only=True)
    predict(image)
    seconds = []
    for _ in range(LATENCY_RUNS):
        start = time.perf_counter()
        predict(image)
        seconds.append(time.perf_counter() - start)
    return {
        "batch": 1,
        "size": list(image.shape[1:3]),
        "intra_op_num_threads": 1,
        "milliseconds": round(1000 * float(np.median(seconds)), 2),
        "processor": _processor(comparison.provider),
    }


def _processor(provider: str) -> str:
    if provider == CUDA and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    facts = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", facts.read_text()) if facts.is_file() else None
    return named[1] if named else platform.machine()


def _photos_and_noise(comparison: Comparison, count: int) -> RgbArray:
    """`count` images of the common size, UINT8 `[count, H, W, 3]`."""
    sizes = [comparison.preprocessing.common_size]
    batches = inputs(comparison.preprocessing, comparison.photos[:count], [count], sizes)
    return next(batches)
