"""Losses of both tasks; every logit and probability has its classes on axis 1."""

import torch
from torch import Tensor
from torch.nn import functional

from model_export.samples import IGNORED
from model_export.training.recipes import Recipe

BOUNDARY_PIXELS = 2
"""Maximum distance from another class, in pixels, at which a pixel belongs to the boundary."""
REGION_STRIDE = 2
"""Losses of whole regions look at every second row and column: sorting pixels takes long."""


def classification_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with class indices `[B]`, or with shares of classes `[B, classes]`."""
    return functional.cross_entropy(logits, targets, label_smoothing=smoothing)


def segmentation_loss(
    logits: Tensor, targets: Tensor, recipe: Recipe, class_weights: Tensor | None
) -> Tensor:
    """Weighted cross-entropy, with Dice and Lovasz losses if the recipe has them.

    Logits `[B, classes, H, W]`; targets `[B, H, W]`, of which `IGNORED` pixels do not count.
    Without any labelled pixel the loss is 0.
    """
    loss = _weighted_cross_entropy(logits, targets, recipe, class_weights)
    if recipe.dice or recipe.lovasz:
        few = (..., slice(None, None, REGION_STRIDE), slice(None, None, REGION_STRIDE))
        probabilities, truth = _labelled(logits[few].softmax(dim=1), targets[few])
        if recipe.dice:
            loss = loss + recipe.dice * dice_loss(probabilities, truth)
        if recipe.lovasz:
            loss = loss + recipe.lovasz * lovasz_loss(probabilities, truth)
    return loss


def _weighted_cross_entropy(
    logits: Tensor, targets: Tensor, recipe: Recipe, class_weights: Tensor | None
) -> Tensor:
    known = targets != IGNORED
    losses = functional.cross_entropy(
        logits,
        targets,
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=recipe.label_smoothing,
    )
    weights = known.float()
    if class_weights is not None:
        weights = weights * class_weights[targets.where(known, 0)]
    if recipe.boundary:
        weights = weights * (1 + recipe.boundary * boundary(targets))
    return (losses * weights).sum() / weights.sum().clamp(min=1e-6)


def boundary(targets: Tensor) -> Tensor:
    """1 for labelled pixels within `BOUNDARY_PIXELS` of another class, else 0; FP32 `[B, H, W]`."""
    known, side = targets != IGNORED, 2 * BOUNDARY_PIXELS + 1
    highest, lowest = (
        functional.max_pool2d(
            (sign * targets.float()).where(known, -torch.inf), side, 1, BOUNDARY_PIXELS
        )
        for sign in (1, -1)
    )
    return (known & (highest != -lowest)).float()


def _labelled(probabilities: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The labelled pixels: probabilities `[classes, N]` and class indices `[N]`."""
    known = targets != IGNORED
    return probabilities.transpose(0, 1)[:, known], targets[known]


def dice_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """1 minus the mean Dice coefficient of the classes that are present.

    Probabilities `[classes, N]` and class indices `[N]`; 0 without pixels.
    """
    if truth.numel() == 0:
        return probabilities.sum()
    members = functional.one_hot(truth, len(probabilities)).T.float()
    common = (probabilities * members).sum(dim=1)
    dice = 2 * common / (probabilities.sum(dim=1) + members.sum(dim=1)).clamp(min=1e-6)
    return 1 - dice[members.sum(dim=1) > 0].mean()


def lovasz_loss(probabilities: Tensor, truth: Tensor) -> Tensor:
    """Lovasz-Softmax (arXiv 1705.08790), the mean over the classes that are present.

    Probabilities `[classes, N]` and class indices `[N]`; 0 without pixels.
    """
    if truth.numel() == 0:
        return probabilities.sum()
    losses = []
    for index in torch.unique(truth).tolist():
        member = (truth == index).float()
        errors, order = (member - probabilities[index]).abs().sort(descending=True)
        losses.append(errors @ _jaccard_gradient(member[order]))
    return torch.stack(losses).mean()


def _jaccard_gradient(members: Tensor) -> Tensor:
    """Growth of the Jaccard loss with each further error; `members` in order of their errors."""
    common = members.sum() - members.cumsum(0)
    union = members.sum() + (1 - members).cumsum(0)
    jaccard = 1 - common / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])


def distillation_loss(logits: Tensor, teacher: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy with the teacher's probabilities, over labelled images or pixels."""
    losses = functional.cross_entropy(logits, teacher.softmax(dim=1), reduction="none")
    if losses.dim() == 1:
        return losses.mean()
    known = targets != IGNORED
    return losses[known].sum() / known.sum().clamp(min=1)
