"""Summaries of images and their predictions, for the metrics."""

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from service.images.photo import Photo, PreparedImage
from service.runtime.arrays import Array, Outputs
from service.schema.contract import Contract
from service.schema.tasks import TASKS
from service.telemetry.events import Prediction

GRID = 8
"""Count only every eighth pixel of every eighth row of a label map, which takes microseconds."""

Shares = tuple[Mapping[str, float], float | None]


def summarize(
    contract: Contract,
    photos: Sequence[Photo | PreparedImage],
    outputs: Sequence[Outputs],
    temperature: float = 1.0,
) -> list[Prediction]:
    """Describe each photo; without classes if their output was not computed.

    The confidence is the softmax of `logits / temperature`.
    """
    has_scores = TASKS[contract.task].has_scores
    describe = partial(_top_class, temperature=temperature) if has_scores else _class_shares
    predictions = []
    for photo, each in zip(photos, outputs, strict=True):
        output, image = each.get(contract.prediction), photo.prepare()
        shares, confidence = ({}, None) if output is None else describe(output, contract.labels)
        pixels = image.photo_width * image.photo_height
        predictions.append(Prediction(pixels, shares, confidence))
    return predictions


def _top_class(logits: Array, labels: Sequence[str], temperature: float) -> Shares:
    """Return the most likely class of logits [classes] and its softmax; nothing for NaN."""
    top = int(logits.argmax())
    if not math.isfinite(logits[top]):
        return {}, None
    exponents = np.exp((logits.astype(np.float32) - logits[top]) / temperature)
    return {labels[top]: 1.0}, 1 / float(exponents.sum())


def _class_shares(labels: Array, names: Sequence[str]) -> Shares:
    """Return the share of each class in a label map [height, width]."""
    seen = labels[::GRID, ::GRID]
    counts = np.bincount(seen.ravel(), minlength=len(names)).tolist()
    shares: dict[str, float] = {}
    for name, count in zip(names, counts, strict=False):
        if count:  # two classes may have the same name
            shares[name] = shares.get(name, 0.0) + count / seen.size
    return shares, None
