"""Mixed labels are the shares that the images have of their pixels."""

import numpy as np
import pytest
import torch

from model_export.training.mixing import mixed
from model_export.training.recipes import RECIPES

PLAIN = RECIPES["classification"]
TARGETS = torch.arange(8)


def flat_images() -> torch.Tensor:
    """Image `i` has the value `i` everywhere."""
    return TARGETS.float().view(8, 1, 1, 1).expand(8, 3, 20, 30)


def test_without_mixing_images_and_indices_stay():
    images, targets = mixed(flat_images(), TARGETS, 8, PLAIN, np.random.default_rng(0))
    assert torch.equal(images, flat_images())
    assert torch.equal(targets, TARGETS)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", [{"mixup": 1.0}, {"cutmix": 1.0}, {"mixup": 1.0, "cutmix": 1.0}])
def test_labels_follow_the_pixels(method, seed):
    recipe = PLAIN.changed(**method)
    images, shares = mixed(flat_images(), TARGETS, 8, recipe, np.random.default_rng(seed))
    assert torch.allclose(shares.sum(1), torch.ones(8))
    expected = shares @ torch.arange(8.0)
    assert torch.allclose(images.mean((1, 2, 3)), expected, atol=1e-4)


def test_mixup_blends_and_cutmix_pastes():
    blended, _ = mixed(
        flat_images(), TARGETS, 8, PLAIN.changed(mixup=1.0), np.random.default_rng(0)
    )
    pasted, _ = mixed(
        flat_images(), TARGETS, 8, PLAIN.changed(cutmix=1.0), np.random.default_rng(0)
    )
    assert (blended.flatten(1).std(1) < 1e-5).all()
    assert torch.equal(pasted, pasted.round())
    assert not torch.equal(pasted, flat_images())


def test_batches_take_turns_between_both():
    recipe = PLAIN.changed(mixup=1.0, cutmix=1.0)
    pasted = [
        torch.equal(images, images.round())
        for images, _ in (
            mixed(flat_images(), TARGETS, 8, recipe, np.random.default_rng(seed))
            for seed in range(20)
        )
    ]
    assert 4 < sum(pasted) < 16
