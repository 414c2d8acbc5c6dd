"""Evaluation over scales and mirror images."""

import numpy as np
import torch
from torch import nn

from model_export.comparison.predictors import reference_predictor
from model_export.models.registry import build, dimensions_of
from model_export.models.served import served
from model_export.training.multi_scale import MultiScale, multi_scale
from tests.model_export.networks import CONTRACT_MEAN, CONTRACT_STD, randomised


def images(height: int = 64, width: int = 96) -> np.ndarray:
    chance = np.random.default_rng(0)
    return chance.integers(0, 256, (2, height, width, 3)).astype(np.uint8)


def model_of(name: str):
    torch.manual_seed(0)
    return served(randomised(build(dimensions_of(name, classes=3))), CONTRACT_MEAN, CONTRACT_STD)


def test_a_mirrored_photo_has_the_mirrored_labels():
    predict = reference_predictor(multi_scale(model_of("fpn_resnet18"), (1.0, 1.5)))
    labels, mirrored = (predict(each)["labels"] for each in (images(), images()[:, :, ::-1].copy()))
    assert labels.shape == (2, 64, 96)
    assert (labels == mirrored[:, :, ::-1]).mean() > 0.999


def test_a_mirrored_photo_has_the_same_class_scores():
    predict = reference_predictor(multi_scale(model_of("resnet18"), (0.5, 1.0)))
    logits, mirrored = (predict(each)["logits"] for each in (images(), images()[:, :, ::-1].copy()))
    assert np.allclose(logits, mirrored, atol=1e-4)


def test_the_answer_is_the_mean_probability():
    class Brightness(nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            mean = batch.mean((1, 2, 3))
            return torch.stack([mean, -mean], 1)

    batch = torch.full((1, 3, 64, 64), 0.3)
    given = MultiScale(Brightness(), (0.5, 1.0))(batch).exp()
    assert torch.allclose(given, Brightness()(batch).softmax(1), atol=1e-5)
