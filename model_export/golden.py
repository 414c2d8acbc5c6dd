"""Golden inputs: a few images and the checkpoint's answers, for the service to replay."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from model_export.evaluation import Predict
from model_export.preprocessing import Preprocessing, RgbArray, open_image
from model_export.registry import Task

GOLDEN = "golden.npz"
COUNT = 4
ANSWERS = {"classification": "logits", "segmentation": "labels"}
SELF_TEST = {"max_relative_difference": 2e-3, "agreement": 0.999}
"""Wider than the parity's tolerance: a GPU computes float32 with 10-bit mantissas (TF32)."""


def golden_file(
    reference: Predict, task: Task, preprocessing: Preprocessing, photos: Sequence[Path]
) -> bytes:
    """An `.npz` of `image_<n>` UINT8 `[H, W, 3]` and `logits_<n>` or `labels_<n>`.

    The answers are the PyTorch module's. Without photos the images are noise.
    """
    arrays: dict[str, Any] = {}
    for index, image in enumerate(_images(preprocessing, photos)):
        arrays[f"image_{index}"] = image
        arrays[f"{ANSWERS[task]}_{index}"] = reference(image[None])[ANSWERS[task]][0]
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def _images(preprocessing: Preprocessing, photos: Sequence[Path]) -> list[RgbArray]:
    if photos:
        spread = np.linspace(0, len(photos) - 1, min(COUNT, len(photos))).astype(int)
        return [preprocessing(open_image(photos[index])) for index in spread]
    height, width = preprocessing.common_size
    noise = np.random.default_rng(0).integers(0, 256, (COUNT, height, width, 3))
    return list(noise.astype(np.uint8))
