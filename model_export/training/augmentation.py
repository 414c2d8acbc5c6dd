"""Augmentation of whole batches, on the device that trains.

Images are float `[B, 3, H, W]`, 0-255. What is drawn at random comes from the generator that is
given, so a batch is the same on every device.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

FILL = (124, 116, 104)
"""The colour outside a photo: the ImageNet mean."""
ERASED_AREA = (0.02, 0.25)
ERASED_ASPECT = 3.0


def trivial_augment(images: Tensor, chance: np.random.Generator, *, geometric: bool) -> Tensor:
    """One random operation of random strength for each image (TrivialAugment, arXiv 2103.10158).

    `geometric` allows operations that move pixels.
    """
    operations = [each for each in OPERATIONS if geometric or not each.geometric]
    chosen = chance.integers(len(operations), size=len(images))
    strengths = torch.from_numpy(chance.uniform(-1, 1, len(images)).astype(np.float32))
    augmented = images.clone()
    for index in np.unique(chosen):
        rows = torch.from_numpy(np.flatnonzero(chosen == index))
        strength = strengths[rows].to(images.device).view(-1, 1, 1, 1)
        augmented[rows] = operations[index].apply(images[rows], strength).clamp(0, 255)
    return augmented


def random_erasing(images: Tensor, share: float, chance: np.random.Generator) -> Tensor:
    """Fill a rectangle of a share of the images with one colour (arXiv 1708.04896)."""
    count, _, height, width = images.shape
    area = chance.uniform(*ERASED_AREA, count) * (chance.random(count) < share)
    stretch = np.exp(chance.uniform(-1, 1, count) * math.log(ERASED_ASPECT) / 2)
    box_height = np.minimum(np.sqrt(area) * stretch, 1) * height
    box_width = np.minimum(np.sqrt(area) / stretch, 1) * width
    inside = _between(chance.uniform(0, height - box_height), box_height, height)[:, :, None]
    inside = inside & _between(chance.uniform(0, width - box_width), box_width, width)[:, None, :]
    erased = torch.from_numpy(inside[:, None]).to(images.device)
    return images.where(~erased, _fill(images))


def _between(
    start: npt.NDArray[np.float64], length: npt.NDArray[np.float64], size: int
) -> npt.NDArray[np.bool_]:
    """Which of `size` positions are in `[start, start + length)`; `[B, size]`."""
    positions = np.arange(size)[None, :] + 0.5
    inside: npt.NDArray[np.bool_] = positions >= start[:, None]
    return inside & (positions < (start + length)[:, None])


def _fill(images: Tensor) -> Tensor:
    return torch.tensor(FILL, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)


def _moved(images: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Sample each image at an affine map of its coordinates, -1 to 1; `FILL` outside."""
    one = torch.ones(len(images), device=images.device)
    matrix = torch.stack([torch.stack([one * entry for entry in row], 1) for row in rows], 1)
    grid = functional.affine_grid(matrix, list(images.shape), align_corners=False)
    fill = _fill(images)
    return functional.grid_sample(images - fill, grid, align_corners=False) + fill


def _shear_x(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.3 * strength.flatten(), 0.0], [0.0, 1.0, 0.0]])


def _shear_y(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 0.0], [0.3 * strength.flatten(), 1.0, 0.0]])


def _translate_x(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 0.6 * strength.flatten()], [0.0, 1.0, 0.0]])


def _translate_y(images: Tensor, strength: Tensor) -> Tensor:
    return _moved(images, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.6 * strength.flatten()]])


def _rotate(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 degrees; `affine_grid` counts both axes from -1 to 1, hence the ratio."""
    angle, ratio = strength.flatten() * math.pi / 6, images.shape[2] / images.shape[3]
    cos, sin = angle.cos(), angle.sin()
    return _moved(images, [[cos, -sin * ratio, 0.0], [sin / ratio, cos, 0.0]])


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True)


def _away_from(images: Tensor, plain: Tensor, strength: Tensor) -> Tensor:
    """Blend with a plain version, or exaggerate the difference to it, by a factor of 0.1 to 1.9."""
    return plain + (images - plain) * (1 + 0.9 * strength)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _away_from(images, torch.zeros_like(images), strength)


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    return _away_from(images, _grey(images).mean(dim=(2, 3), keepdim=True), strength)


def _saturation(images: Tensor, strength: Tensor) -> Tensor:
    return _away_from(images, _grey(images), strength)


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    blurred = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False)
    return _away_from(images, blurred, strength)


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keep 8 to 4 bits."""
    step = 2 ** (4 * strength.abs()).round()
    return (images / step).floor() * step


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    return images.where(images < 256 * (1 - strength.abs()), 255 - images)


def _auto_contrast(images: Tensor, _strength: Tensor) -> Tensor:
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    return torch.where(high > low, (images - low) * 255 / (high - low).clamp(min=1), images)


def _equalize(images: Tensor, _strength: Tensor) -> Tensor:
    """Give every level of each channel the share of pixels at or below it."""
    count, channels, height, width = images.shape
    levels = images.round().long().clamp(0, 255).reshape(count * channels, -1)
    histogram = torch.zeros(count * channels, 256, device=images.device)
    histogram.scatter_add_(1, levels, torch.ones_like(levels, dtype=histogram.dtype))
    share = histogram.cumsum(dim=1) / (height * width)
    return (255 * share.gather(1, levels)).reshape(images.shape)


def _identity(images: Tensor, _strength: Tensor) -> Tensor:
    return images


@dataclass(frozen=True)
class Operation:
    """An operation on images with a strength `[B, 1, 1, 1]` from -1 to 1."""

    apply: Callable[[Tensor, Tensor], Tensor]
    geometric: bool = False


OPERATIONS = (
    Operation(_identity),
    Operation(_shear_x, geometric=True),
    Operation(_shear_y, geometric=True),
    Operation(_translate_x, geometric=True),
    Operation(_translate_y, geometric=True),
    Operation(_rotate, geometric=True),
    Operation(_brightness),
    Operation(_contrast),
    Operation(_saturation),
    Operation(_sharpness),
    Operation(_posterize),
    Operation(_solarize),
    Operation(_auto_contrast),
    Operation(_equalize),
)
