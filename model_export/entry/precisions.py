"""The precisions in which a graph is stored, as data: files, tolerances, limits."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from model_export.comparison.golden import GOLDEN
from model_export.models.registry import Task

PrecisionName = Literal["fp32", "fp16", "int8"]


@dataclass(frozen=True)
class Tolerance:
    """How far a graph may be from its checkpoint.

    The relative difference is the largest absolute difference over the largest magnitude of the
    same output; `agreement` is the share of equal top-1 classes or pixels.
    """

    max_relative_difference: float
    agreement: float


@dataclass(frozen=True)
class Precision:
    """One precision of a graph.

    `parity` is what `verify` demands, against the checkpoint; `self_test` what the service
    demands of the golden inputs on its own device. `limits` are what `VT_PRECISION=auto` demands
    of the measured accuracy: the loss may not exceed `accuracy_loss` (of top-1 or mIoU, as a
    fraction), or the share of answers equal to fp32's not fall below `agreement_with_fp32`.
    With `answers_only` the tolerance binds the answer (`logits`) alone: a softmax turns small
    differences into large ones, so that tokens and attention maps are recorded and not judged.
    """

    graph: str
    parity: Tolerance
    self_test: Tolerance
    golden_outputs: str = GOLDEN
    answers_only: bool = False
    limits: Mapping[Task, Mapping[str, float]] = field(default_factory=dict)


PRECISIONS: Mapping[PrecisionName, Precision] = {
    # Sums in another order differ by about 1e-6, in ill-conditioned networks by up to 2e-4. The
    # self-test is wider: a GPU computes float32 with 10-bit mantissas (TF32).
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
    # The self-test compares with the int8 graph's own outputs: the rounding differs little from
    # one processor to the next, a saturating multiplication differs much.
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
