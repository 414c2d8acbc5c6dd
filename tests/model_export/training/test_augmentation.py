"""Operations on batches, each against its definition."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from model_export.training import augmentation
from model_export.training.augmentation import (
    FILL,
    OPERATIONS,
    random_erasing,
    trivial_augment,
)


def photos(count: int = 4, height: int = 24, width: int = 32) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=chance) * 200 + 20
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").round()


def strength(value: float, count: int = 4) -> torch.Tensor:
    return torch.full((count, 1, 1, 1), value)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda each: each.apply.__name__)
def test_an_operation_treats_every_image_of_the_batch_by_itself(operation):
    images, strengths = photos(), torch.tensor([-0.9, -0.2, 0.4, 1.0]).view(-1, 1, 1, 1)
    together = operation.apply(images, strengths)
    alone = [operation.apply(images[i : i + 1], strengths[i : i + 1]) for i in range(4)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-3)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize(
    "operation", [each for each in OPERATIONS if each.geometric], ids=lambda e: e.apply.__name__
)
def test_a_movement_of_strength_0_changes_nothing(operation):
    assert torch.allclose(operation.apply(photos(), strength(0)), photos(), atol=1e-2)


def test_a_translation_moves_the_pixels_and_fills_the_rest():
    """0.6 of the half width of 32 is 9.6; half of it is 4.8 pixels to the left."""
    images = photos()
    moved = augmentation._translate_x(images, strength(10 / 9.6 / 2))
    assert torch.allclose(moved[..., :26], images[..., 5:31], atol=1e-2)
    assert torch.allclose(moved[0, :, 0, -1], torch.tensor(FILL).float())


def test_a_rotation_keeps_shapes_in_wide_photos():
    """A disc in the middle stays a disc."""
    y, x = torch.meshgrid(torch.arange(24) - 11.5, torch.arange(48) - 23.5, indexing="ij")
    disc = ((x**2 + y**2) < 64).float().expand(1, 3, 24, 48) * 255
    turned = augmentation._rotate(disc, strength(1.0, 1))
    agree = ((turned > 127) == (disc > 127))[:, 0].float().mean()  # FILL's red is below 127
    assert agree > 0.98


@pytest.mark.parametrize(
    ("operation", "of_pillow"),
    [
        (augmentation._auto_contrast, ImageOps.autocontrast),
        (augmentation._equalize, ImageOps.equalize),
        (augmentation._solarize, lambda image: ImageOps.solarize(image, 128)),
        (augmentation._posterize, lambda image: ImageOps.posterize(image, 6)),
    ],
    ids=["auto contrast", "equalize", "solarize", "posterize"],
)
def test_an_operation_equals_that_of_pillow(operation, of_pillow):
    images = photos(count=1, height=64, width=64)
    pixels = images[0].permute(1, 2, 0).byte().numpy()
    expected = np.asarray(of_pillow(Image.fromarray(pixels))).astype(float)
    given = operation(images, strength(0.5, 1))[0].permute(1, 2, 0).numpy()
    assert np.abs(given - expected).mean() < 4


def test_one_operation_is_drawn_for_each_image():
    images = photos(1).expand(64, 3, 24, 32)
    augmented = trivial_augment(images, np.random.default_rng(0), geometric=True)
    assert len(torch.unique(augmented.flatten(1), dim=0)) > 40
    assert (augmented >= 0).all()
    assert (augmented <= 255).all()
    again = trivial_augment(images, np.random.default_rng(0), geometric=True)
    assert torch.equal(augmented, again)


def test_without_geometry_no_pixel_moves():
    """Two flat halves stay flat, but for the blur at their border."""
    images = torch.full((64, 3, 16, 16), 60.0)
    images[..., 8:] = 180.0
    augmented = trivial_augment(images, np.random.default_rng(1), geometric=False)
    assert (augmented[..., :7].flatten(2).std(2) < 1e-2).all()
    assert (augmented[..., 9:].flatten(2).std(2) < 1e-2).all()


def test_a_rectangle_of_some_images_is_erased():
    images = torch.zeros(200, 3, 32, 32)
    erased = random_erasing(images, 0.25, np.random.default_rng(0))
    areas = (erased != 0).all(1).float().mean((1, 2))
    assert 0.15 < float((areas > 0).float().mean()) < 0.35
    assert float(areas.max()) < 0.3
    colors = {tuple(map(int, erased[i, :, y, x])) for i, _, y, x in (erased > 0).nonzero()}
    assert colors == {FILL}


def test_nothing_is_erased_at_a_share_of_0():
    images = photos()
    assert torch.equal(random_erasing(images, 0.0, np.random.default_rng(0)), images)
