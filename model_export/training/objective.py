"""The training objective: the loss of a batch of views."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from model_export import checkpoint
from model_export.errors import InvalidCheckpoint
from model_export.models.registry import build
from model_export.models.served import Normalisation
from model_export.training.augmentation import random_erasing, trivial_augment
from model_export.training.losses import (
    classification_loss,
    distillation_loss,
    segmentation_loss,
)
from model_export.training.mixing import mixed
from model_export.training.run import Run

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "off": torch.float32}


class Objective:
    """The loss of a batch: augmented, normalised, predicted in the run's arithmetic, compared."""

    def __init__(self, run: Run, class_weights: Tensor | None, device: torch.device) -> None:
        self._run = run
        self.class_weights = class_weights
        self.normalisation = Normalisation(run.preprocessing.mean, run.preprocessing.std).to(device)
        self._teacher = None if run.teacher is None else _teacher(run, device)
        amp = run.arithmetic(device)
        self._autocast: Callable[[], Any] = lambda: torch.autocast(
            device.type, _DTYPES[amp], enabled=amp != "off"
        )

    def __call__(
        self, network: nn.Module, images: Tensor, targets: Tensor, chance: np.random.Generator
    ) -> Tensor:
        """The loss of UINT8 images `[B, H, W, 3]` with their targets."""
        inputs, answers = self._augmented(images, targets, chance)
        with self._autocast():
            logits = network(inputs).float()
        loss = self._supervised(logits, answers)
        if self._teacher is None:
            return loss
        weight = self._run.recipe.distillation
        with torch.no_grad(), self._autocast():
            teacher = self._teacher(inputs).float()
        return torch.lerp(loss, distillation_loss(logits, teacher, targets), weight)

    def _augmented(
        self, images: Tensor, targets: Tensor, chance: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        recipe = self._run.recipe
        is_classifier = targets.dim() == 1
        if recipe.trivial_augment or recipe.random_erasing:
            pixels = images.permute(0, 3, 1, 2).float()
            if recipe.trivial_augment:
                pixels = trivial_augment(pixels, chance, geometric=is_classifier)
            pixels = random_erasing(pixels, recipe.random_erasing, chance)
            images = pixels.permute(0, 2, 3, 1)
        inputs = self.normalisation(images)
        if not is_classifier:
            return inputs, targets
        return mixed(inputs, targets, self._run.dimensions.classes, recipe, chance)

    def _supervised(self, logits: Tensor, targets: Tensor) -> Tensor:
        recipe = self._run.recipe
        if logits.dim() == 2:
            return classification_loss(logits, targets, recipe.label_smoothing)
        return segmentation_loss(logits, targets, recipe, self.class_weights)


def _teacher(run: Run, device: torch.device) -> nn.Module:
    """The network of the teacher's checkpoint, which must have the same classes."""
    source = checkpoint.read(run.teacher)  # type: ignore[arg-type]
    if source.dimensions is None:
        raise InvalidCheckpoint(
            f"{source.path} does not store its dimensions; a teacher must be a checkpoint that "
            "`vt-export train` wrote"
        )
    own, given = run.dimensions, source.dimensions
    if (own.task, own.classes) != (given.task, given.classes):
        raise InvalidCheckpoint(
            f"the teacher {source.path} has {given.classes} classes for {given.task}, but the "
            f"model has {own.classes} for {own.task}"
        )
    network = build(given)
    checkpoint.load_model(network, source, given)
    return network.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
