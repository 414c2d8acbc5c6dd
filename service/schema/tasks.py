"""The tasks that models solve: one row per task."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from service.schema.vocabulary import Datatype, Task

Array = npt.NDArray[Any]

TOKENS = "tokens"
"""The output [tokens, channels] of visual tokens, whatever the task."""
ATTENTION = "token_attention"
"""The output of their attention, or the start of the names of several such outputs."""
SCORES = "scores"
"""The output of a segmentation model from which it computes the labels."""


@dataclass(frozen=True)
class TaskRow:
    """The output that holds the prediction of a task, and the comparison of two such outputs."""

    output: str
    datatype: Datatype
    rank: int
    metric: Literal["top1", "miou"]
    """The accuracy by which the precisions of a model are compared."""
    equal_answers: Callable[[Array, Array], npt.NDArray[np.bool_]]
    """Compare two outputs for one image: its class, or the class of each pixel."""
    has_scores: bool = False
    """Whether the output holds one score per label; otherwise it holds classes."""
    has_palette: bool = False

    def agreement(self, pairs: Iterable[tuple[Array, Array]]) -> float:
        """Return the share of equal predictions in pairs of outputs."""
        return float(np.concatenate([self.equal_answers(*pair) for pair in pairs]).mean())


def _equal_classes(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    return np.array([one.argmax() == other.argmax()])


def _equal_pixels(one: Array, other: Array) -> npt.NDArray[np.bool_]:
    """Maps of different shapes have no pixel in common."""
    return (one == other).ravel() if one.shape == other.shape else np.array([False])


TASKS: Mapping[Task, TaskRow] = {
    Task.CLASSIFICATION: TaskRow(
        "logits", Datatype.FP32, 2, "top1", _equal_classes, has_scores=True
    ),
    Task.SEGMENTATION: TaskRow(
        "labels", Datatype.UINT8, 3, "miou", _equal_pixels, has_palette=True
    ),
}
