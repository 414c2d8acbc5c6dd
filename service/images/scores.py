"""Scale class scores, which the graph computes for a quarter of its input's sides, to a photo."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import InferenceFailed
from service.images.masks import Labels

Scores = npt.NDArray[np.float32]
"""One score per class and cell: [classes, rows, columns]; the cells cover the photo evenly."""
Array = npt.NDArray[Any]
Mixed = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]

BAND_PIXELS = 1 << 14
"""Photo pixels per band of whole rows of cells: fewer waste time, more work on uniform cells."""
STRIP_PIXELS = 1 << 18
"""Limit on the pixels that are interpolated at once, which bounds the memory."""


def check_scores(scores: npt.NDArray[np.generic]) -> Scores:
    """Return scores as FP32; raises `InferenceFailed` if one is not a finite number."""
    checked = scores.astype(np.float32, copy=False)
    if not np.isfinite(checked).all():
        raise InferenceFailed("The model returned a score that is not a number.")
    return checked


def smooth_labels(scores: Scores, width: int, height: int) -> Labels:
    """Return the class of each pixel of a photo: the largest of the scores, scaled bilinearly.

    Scaling has half-pixel centres, as in the graph, so that a photo of the graph's input size gets
    the graph's own labels. Where all four cells around a pixel agree on a class, no interpolation
    can change it; only the other pixels are interpolated.
    """
    repeated = [(0, 0), *((0, int(side == 1)) for side in scores.shape[1:])]
    scores = np.pad(scores, repeated, mode="edge")
    winners = scores.argmax(axis=0).astype(np.uint8)
    labels = np.array(Image.fromarray(winners).resize((width, height), Image.Resampling.NEAREST))
    mixed = _differ(winners)
    rivals: Mixed = _can_win(scores) & mixed
    rows, columns = _Axis(height, scores.shape[1]), _Axis(width, scores.shape[2])
    band = max(1, BAND_PIXELS * mixed.shape[0] // labels.size)
    for first in range(0, mixed.shape[0], band):
        cells = slice(first, first + band)
        x = np.flatnonzero(np.take(mixed[cells].any(axis=0), columns.cell))
        classes = np.flatnonzero(rivals[:, cells].any(axis=(1, 2))).tolist()
        for y in rows.strips(cells, STRIP_PIXELS // max(1, x.size)) if x.size else ():
            labels[y, x] = _best_class(scores, classes, rows.between(y), columns.between(x))
    return labels


class Between(NamedTuple):
    """Places between the centres of a cell and of the next one."""

    cell: Indices
    share: Scores
    """Weight of the next cell."""


class _Axis:
    """Places of the pixels of one side of a photo between the centres of cells."""

    def __init__(self, pixels: int, cells: int) -> None:
        at = ((np.arange(pixels) + 0.5) * (cells / pixels) - 0.5).clip(0, cells - 1)
        self.cell: Indices = np.minimum(at.astype(np.intp), cells - 2)
        self._share = (at - self.cell).astype(np.float32)

    def between(self, pixels: slice | Indices) -> Between:
        """Return the places of these pixels."""
        return Between(self.cell[pixels], self._share[pixels])

    def strips(self, cells: slice, most: int) -> list[slice]:
        """Return the pixels between these cells and the next, in parts of up to `most`."""
        start, stop = np.searchsorted(self.cell, (cells.start, cells.stop)).tolist()
        step = max(1, most)
        return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _corners(cells: Array) -> list[Array]:
    """Return the four cells around each place between cells, [..., rows - 1, columns - 1] each."""
    first, last = slice(None, -1), slice(1, None)
    return [cells[..., y, x] for y in (first, last) for x in (first, last)]


def _differ(winners: Labels) -> Mixed:
    first, *others = _corners(winners)
    differ: Mixed = np.logical_or.reduce([first != other for other in others])
    return differ


def _can_win(scores: Scores) -> Mixed:
    """Return where a class can have the largest score: no other is surely larger."""
    corners = _corners(scores)
    can_win: Mixed = np.maximum.reduce(corners) >= np.minimum.reduce(corners).max(axis=0)
    return can_win


def _best_class(scores: Scores, classes: list[int], y: Between, x: Between) -> Labels:
    """Return the class with the largest interpolated score at places of the grid: [y, x]."""
    best = np.full((y.cell.size, x.cell.size), -np.inf, np.float32)
    labels = np.zeros(best.shape, np.uint8)
    for index in classes:
        line = scores[index][y.cell]
        line += y.share[:, None] * (scores[index][y.cell + 1] - line)
        value = np.take(np.diff(line, axis=1), x.cell, axis=1)
        value *= x.share
        value += np.take(line, x.cell, axis=1)
        np.copyto(labels, np.uint8(index), where=value > best)
        np.maximum(best, value, out=best)
    return labels


def confidence_map(scores: Scores, width: int, height: int) -> Labels:
    """Return the softmax of the best class as 0 to 255, scaled bilinearly to a photo."""
    exponents = np.exp(scores - scores.max(axis=0))
    best = np.rint(255 / exponents.sum(axis=0)).astype(np.uint8)
    return np.asarray(Image.fromarray(best).resize((width, height), Image.Resampling.BILINEAR))


def mean_confidence(labels: Labels, confidence: Labels, classes: int) -> list[float]:
    """Return the mean confidence, 0 to 1, over the pixels of each class; 0 if it has none."""
    sums, counts = np.zeros(classes), np.zeros(classes, np.int64)
    step = max(1, STRIP_PIXELS // labels.shape[1])
    for top in range(0, labels.shape[0], step):
        flat = labels[top : top + step].ravel()
        sums += np.bincount(flat, confidence[top : top + step].ravel(), classes)
        counts += np.bincount(flat, minlength=classes)
    means: list[float] = (sums / 255 / np.maximum(counts, 1)).round(6).tolist()
    return means
