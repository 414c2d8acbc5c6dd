"""The precisions of a graph, as data: files, tolerances and limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from model_export.models.registry import Task

PrecisionName = Literal["fp32", "fp16", "int8"]

GOLDEN = "golden.npz"
"""The file of the golden inputs and of the checkpoint's outputs for them."""
HEAD = "head.npz"
"""The file of the linear layer from the mean of the tokens to the logits, for contributions."""


@dataclass(frozen=True)
class Tolerance:
    """The difference that a graph may have from its reference.

    The relative difference is the largest absolute difference divided by the largest magnitude of
    the same output. `agreement` is the least share of equal top-1 classes or pixels.
    """

    max_relative_difference: float
    agreement: float


@dataclass(frozen=True)
class Precision:
    """One precision of a graph.

    `verify` applies `parity` to the comparison with the checkpoint. The service applies
    `self_test` to the golden inputs on its own device. `VT_PRECISION=auto` applies `limits` to the
    measured accuracy: the loss of top-1 or mIoU is at most `accuracy_loss`, or the share of
    answers that equal those of fp32 is at least `agreement_with_fp32`.

    With `answers_only` the tolerance applies to `logits` or `scores` alone. Tokens and attention
    maps are recorded but not judged, because a softmax turns small differences into large ones.
    """

    graph: str
    parity: Tolerance
    self_test: Tolerance
    golden_outputs: str = GOLDEN
    answers_only: bool = False
    limits: Mapping[Task, Mapping[str, float]] = field(default_factory=dict)


PRECISIONS: Mapping[PrecisionName, Precision] = {
    # Summing in a different order changes results by about 1e-6, in ill-conditioned networks by up
    # to 2e-4. The self-test is wider because GPUs compute float32 with 10-bit mantissas (TF32).
    "fp32": Precision(
        "model.onnx",
        parity=Tolerance(5e-4, 0.9999),
        self_test=Tolerance(2e-3, 0.999),
    ),
    "fp16": Precision(
        "model.fp16.onnx",
        parity=Tolerance(5e-2, 0.98),
        self_test=Tolerance(5e-2, 0.98),
        limits={
            "classification": {"agreement_with_fp32": 0.995},
            "segmentation": {"agreement_with_fp32": 0.99},
        },
    ),
    # The self-test compares with the outputs of the int8 graph itself: rounding differs little
    # between processors, but a multiplication that saturates differs a lot.
    "int8": Precision(
        "model.int8.onnx",
        parity=Tolerance(0.5, 0.85),
        self_test=Tolerance(5e-2, 0.98),
        golden_outputs="golden.int8.npz",
        answers_only=True,
        limits={
            "classification": {"accuracy_loss": 0.005},
            "segmentation": {"accuracy_loss": 0.007},
        },
    ),
}
