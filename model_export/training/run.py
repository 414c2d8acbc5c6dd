"""What one training run is made of."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from model_export.models.registry import Dimensions
from model_export.preprocessing import Preprocessing
from model_export.samples import Sample
from model_export.training.recipes import Recipe

Amp = Literal["bf16", "fp16", "off"]
AMP: tuple[Amp, ...] = ("bf16", "fp16", "off")


@dataclass(frozen=True)
class TrainingData:
    """Training and validation samples."""

    train: list[Sample]
    validation: list[Sample]


@dataclass(frozen=True)
class Run:
    """One training run: model, recipe, data and the folder for the results.

    The fields after `hold_out` may change when a run is resumed.
    """

    dimensions: Dimensions
    recipe: Recipe
    data: TrainingData
    preprocessing: Preprocessing
    directory: Path
    backbone: Path | None = None
    """A ResNet checkpoint to initialise the trunk."""
    initial_checkpoint: Path | None = None
    """A checkpoint of the same model to fine-tune."""
    teacher: Path | None = None
    """A checkpoint whose answers are learned beside the labels (distillation)."""
    seed: int = 0
    hold_out: float = 0.0
    """The share of the training split that `data.train` leaves out, to calibrate the scores."""
    workers: int = 1
    evaluate_every: int = 1
    evaluation_scales: tuple[float, ...] = ()
    """Evaluate again, averaged over these scales of the photos and their mirror images."""
    amp: Amp | None = None
    """Arithmetic of forward and backward passes; None is bf16 if the hardware has it."""
    accumulate: int = 1
    """Parts of a batch in sequence, whose gradients are added: less memory, same batch size."""
    save_minutes: float = 5.0
    tensorboard: bool = False

    def identity(self) -> str:
        """The settings that must be equal to resume a run, as JSON."""
        parts = {
            "dimensions": self.dimensions.as_dict(),
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.seed,
            "samples": len(self.data.train),
            "fine_tuned": self.initial_checkpoint is not None,
            "backbone": self.backbone is not None,
            "distilled": self.teacher is not None,
        }
        return json.dumps(parts, sort_keys=True)

    def arithmetic(self, device: torch.device) -> Amp:
        """The arithmetic of forward and backward passes on a device."""
        if self.amp is not None:
            return self.amp
        return "bf16" if _fast_bfloat16(device) else "off"


def _fast_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 in hardware."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())
