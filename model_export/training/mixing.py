"""Mixup and CutMix: images of a batch that share their pixels and their labels."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from model_export.training.recipes import Recipe


def mixed(
    images: Tensor, targets: Tensor, classes: int, recipe: Recipe, chance: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Mix every image with another of the batch, by mixup or CutMix.

    Images `[B, 3, H, W]` and class indices `[B]` to images and shares of classes `[B, classes]`.
    """
    if not (recipe.mixup or recipe.cutmix):
        return images, targets
    partner = torch.from_numpy(chance.permutation(len(images))).to(images.device)
    if chance.random() * (bool(recipe.mixup) + bool(recipe.cutmix)) < bool(recipe.mixup):
        share = float(chance.beta(recipe.mixup, recipe.mixup))
        images = images.lerp(images[partner], 1 - share)
    else:
        images, share = _cut(
            images, partner, float(chance.beta(recipe.cutmix, recipe.cutmix)), chance
        )
    members = functional.one_hot(targets, classes).float()
    return images, members.lerp(members[partner], 1 - share)


def _cut(
    images: Tensor, partner: Tensor, share: float, chance: np.random.Generator
) -> tuple[Tensor, float]:
    """Paste a box of the partners (arXiv 1905.04899); returns the share that remains, too."""
    height, width = images.shape[2:]
    box = [round(side * math.sqrt(1 - share)) for side in (height, width)]
    top, left = int(chance.integers(height - box[0] + 1)), int(chance.integers(width - box[1] + 1))
    images = images.clone()
    inside = (..., slice(top, top + box[0]), slice(left, left + box[1]))
    images[inside] = images[partner][inside]
    return images, 1 - box[0] * box[1] / (height * width)
