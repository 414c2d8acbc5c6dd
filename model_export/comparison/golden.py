"""Golden inputs: a few images and the checkpoint's outputs, which the service must reproduce."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from model_export.comparison.evaluation import Predict
from model_export.models.registry import Task
from model_export.preprocessing import Preprocessing, RgbArray

COUNT = 4
ANSWERS = {"classification": "logits", "segmentation": "labels"}


def golden_file(
    reference: Predict, task: Task, preprocessing: Preprocessing, photos: Sequence[Path]
) -> bytes:
    """An `.npz` of `image_<n>` UINT8 `[H, W, 3]` and `logits_<n>` or `labels_<n>`.

    The outputs are those of the PyTorch module. Without photos, the images are noise.
    """
    images = _images(preprocessing, photos)
    return _npz(
        {f"image_{index}": image for index, image in enumerate(images)}
        | _outputs(reference, task, images)
    )


def head_file(head: nn.Linear) -> bytes:
    """An `.npz` of the `weight` `[classes, C_T]` and the `bias` `[classes]` of a linear layer."""
    return _npz({"weight": head.weight.detach().numpy(), "bias": head.bias.detach().numpy()})


def golden_images(path: Path) -> list[RgbArray]:
    """The images of a golden file, each UINT8 `[H, W, 3]`."""
    with np.load(path, allow_pickle=False) as arrays:
        count = sum(name.startswith("image_") for name in arrays.files)
        return [arrays[f"image_{index}"] for index in range(count)]


def golden_outputs(predict: Predict, task: Task, images: Sequence[RgbArray]) -> bytes:
    """An `.npz` of `logits_<n>` or `labels_<n>`: the outputs of one graph, without the images."""
    return _npz(_outputs(predict, task, images))


def _outputs(predict: Predict, task: Task, images: Sequence[RgbArray]) -> dict[str, Any]:
    name = ANSWERS[task]
    return {f"{name}_{index}": predict(image[None])[name][0] for index, image in enumerate(images)}


def _npz(arrays: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _images(preprocessing: Preprocessing, photos: Sequence[Path]) -> list[RgbArray]:
    if photos:
        spread = np.linspace(0, len(photos) - 1, min(COUNT, len(photos))).astype(int)
        return [preprocessing.read(photos[index]) for index in spread]
    height, width = preprocessing.common_size
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, height, width, 3))
    return list(noise.astype(np.uint8))
