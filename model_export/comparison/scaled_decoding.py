"""Agreement of photos decoded at a reduced scale with photos decoded in full."""

import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from model_export.comparison.evaluation import Predict, answers, data_sha256
from model_export.preprocessing import Preprocessing, RgbArray, open_image, to_rgb
from model_export.samples import Sample

PIXELS = 12_000_000
"""The size of the photos of current phones."""
QUALITY = 90
LIMIT = 0.995
"""The least share of equal top-1 classes or pixels with which the service decodes at a scale."""


def scaled_decoding(
    predict: Predict,
    samples: Sequence[Sample],
    preprocessing: Preprocessing,
    *,
    data: str,
    images: int,
) -> dict[str, Any]:
    """The `scaled_decoding` section of a certificate.

    A sample of the photos, drawn with seed 0, is enlarged to 12 megapixels and encoded as JPEG.
    `agreement` is the share of top-1 classes or pixels that are equal for both ways to decode it.
    """
    chosen = random.Random(0).sample([*samples], min(images, len(samples)))  # noqa: S311
    equal = total = 0
    difference = 0.0
    for scaled, full in tqdm(_decoded(chosen, preprocessing), total=len(chosen), disable=None):
        ours, theirs = (answers(predict(pixels[None])) for pixels in (scaled, full))
        equal, total = equal + int((ours == theirs).sum()), total + ours.size
        difference += float(np.abs(scaled.astype(np.int16) - full).mean())
    return {
        "data": data,
        "sha256": data_sha256(chosen),
        "images": len(chosen),
        "megapixels": PIXELS / 1e6,
        "mean_absolute_difference": difference / len(chosen),
        "agreement": equal / total,
        "limit": LIMIT,
    }


def _decoded(
    samples: Sequence[Sample], preprocessing: Preprocessing
) -> Iterator[tuple[RgbArray, RgbArray]]:
    """Each photo at 12 megapixels, decoded at a scale and in full."""
    in_full = replace(preprocessing, jpeg_reducing_gap=None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        for sample in samples:
            photo = to_rgb(open_image(sample.image), preprocessing.fill)
            _enlarged(photo).save(file, quality=QUALITY)
            yield preprocessing.read(file), in_full.read(file)


def _enlarged(photo: Image.Image) -> Image.Image:
    scale = math.sqrt(PIXELS / (photo.width * photo.height))
    size = round(photo.width * scale), round(photo.height * scale)
    return photo.resize(size, Image.Resampling.BICUBIC)
