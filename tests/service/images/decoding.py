"""Preprocessing rules, and decoded files, for the tests of this package."""

import numpy as np

from service.images.decode import ImageLimits, decode
from service.schema.preprocessing import Preprocessing

LIMITS = ImageLimits(max_pixels=1_000_000)
GREY = (128, 128, 128)


def preprocessing(resample: str = "bilinear", **resize: object) -> Preprocessing:
    return Preprocessing.model_validate(
        {
            "color_space": "RGB",
            "exif_orientation": True,
            "fill": [255, 255, 255],
            "filter": resample,
            "resize": resize,
        }
    )


SQUASH = preprocessing(mode="squash", height=32, width=32)


def decoded(data: bytes) -> np.ndarray:
    return np.asarray(decode(data, SQUASH, LIMITS))


def middle(data: bytes) -> list[int]:
    """The colour in the middle of a file's image."""
    pixels = decoded(data)
    return pixels[pixels.shape[0] // 2, pixels.shape[1] // 2].tolist()
