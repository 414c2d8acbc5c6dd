"""Losses against their definitions, on labelled pixels alone."""

import math

import pytest
import torch
from torch.nn import functional

from model_export.samples import IGNORED
from model_export.training.losses import (
    boundary,
    dice_loss,
    distillation_loss,
    lovasz_loss,
    segmentation_loss,
)
from model_export.training.recipes import RECIPES

PLAIN = RECIPES["segmentation"]


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def halves() -> torch.Tensor:
    """Label maps of two classes, side by side, with a void column at the right."""
    targets = torch.zeros(1, 8, 12, dtype=torch.int64)
    targets[:, :, 6:] = 1
    targets[:, :, 11] = IGNORED
    return targets


def sharp_logits(targets: torch.Tensor, classes: int = 2) -> torch.Tensor:
    known = functional.one_hot(targets.clamp(max=classes - 1), classes).float()
    return 50 * known.permute(0, 3, 1, 2)


def test_pixels_within_two_of_another_class_are_its_boundary():
    near = boundary(halves())[0]
    assert near[:, 4:8].all()
    assert near.sum() == 8 * 4


def test_void_has_no_boundary_and_is_none():
    targets = torch.zeros(1, 8, 8, dtype=torch.int64)
    targets[:, 4:] = IGNORED
    assert boundary(targets).sum() == 0


def test_boundary_pixels_weigh_more():
    targets, logits = halves(), random_logits(1, 2, 8, 12)
    pixels = functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    weights = (targets != IGNORED) * (1 + 3 * boundary(targets))
    loss = segmentation_loss(logits, targets, PLAIN.changed(boundary=3.0), None)
    assert loss == pytest.approx(float((pixels * weights).sum() / weights.sum()))


@pytest.mark.parametrize("region", ["dice", "lovasz"])
def test_a_loss_of_regions_is_added_with_its_weight(region):
    targets, logits = halves(), random_logits(1, 2, 8, 12)
    plain, half, whole = (
        float(segmentation_loss(logits, targets, PLAIN.changed(**{region: weight}), None))
        for weight in (0.0, 0.5, 1.0)
    )
    assert plain < half < whole
    assert half == pytest.approx((plain + whole) / 2)


@pytest.mark.parametrize("loss", [dice_loss, lovasz_loss])
def test_a_loss_of_regions_is_0_for_the_truth_and_1_for_its_opposite(loss):
    truth = torch.tensor([0, 0, 0, 1])
    right = functional.one_hot(truth, 3).T.float()
    assert float(loss(right, truth)) == pytest.approx(0)
    assert float(loss(right[[1, 0, 2]], truth)) == pytest.approx(1)


def test_the_lovasz_loss_of_sharp_answers_is_1_minus_their_mean_iou():
    """Class 0: 2 of 4 pixels, class 1: 1 of 3."""
    truth, answers = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 1])
    probabilities = functional.one_hot(answers, 2).T.float()
    expected = 1 - (2 / 4 + 1 / 3) / 2
    assert float(lovasz_loss(probabilities, truth)) == pytest.approx(expected)


def test_the_dice_loss_of_sharp_answers():
    truth, answers = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 0, 1])
    probabilities = functional.one_hot(answers, 2).T.float()
    expected = 1 - (2 * 2 / 6 + 2 * 1 / 4) / 2
    assert float(dice_loss(probabilities, truth)) == pytest.approx(expected)


def test_void_pixels_change_no_loss():
    recipe, targets = RECIPES["segmentation-strong"], halves()
    logits = random_logits(1, 2, 8, 12)
    other = logits.clone()
    other[..., 11] = 9.0
    losses = [float(segmentation_loss(each, targets, recipe, None)) for each in (logits, other)]
    assert losses[0] == pytest.approx(losses[1])


def test_without_labelled_pixels_the_loss_and_its_gradient_are_0():
    logits = random_logits(1, 2, 8, 12).requires_grad_()
    nothing = torch.full((1, 8, 12), IGNORED)
    recipe = RECIPES["segmentation-strong"].changed(dice=1.0)
    loss = segmentation_loss(logits, nothing, recipe, torch.ones(2))
    loss.backward()
    assert float(loss.detach()) == 0
    assert float(logits.grad.abs().sum()) == 0


def test_the_loss_falls_to_0_with_the_right_answer():
    targets = halves()
    recipe = RECIPES["segmentation-strong"].changed(dice=1.0)
    assert float(segmentation_loss(sharp_logits(targets), targets, recipe, None)) < 1e-6


def test_distillation_is_smallest_at_the_teachers_answer():
    teacher = torch.tensor([[math.log(3.0), 0.0]])
    best = distillation_loss(teacher, teacher, torch.tensor([1]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert float(best) == pytest.approx(entropy)
    assert float(distillation_loss(-teacher, teacher, torch.tensor([1]))) > float(best)


def test_distillation_looks_at_labelled_pixels_alone():
    targets, logits = halves(), random_logits(1, 2, 8, 12)
    teacher = -logits
    other = teacher.clone()
    other[..., 11] = 9.0
    losses = [float(distillation_loss(logits, each, targets)) for each in (teacher, other)]
    assert losses[0] == pytest.approx(losses[1])
