"""Resize and crop an RGB image as the contract describes."""

import math
from typing import NamedTuple

from PIL import Image

from service.schema.preprocessing import Buckets, Crop, Preprocessing, Squash

MAX_ASPECT_RATIO = (
    16  # beyond it, a strip is cut before scaling; otherwise it would become a huge image
)
Size = tuple[int, int]
"""Width and height."""


class Box(NamedTuple):
    """A rectangle in pixels of an image; the right and bottom edges are not part of it."""

    left: float
    top: float
    right: float
    bottom: float


class Scale(NamedTuple):
    """A photo's own size, and the part of the smaller decoded image that it covers."""

    size: Size
    box: Box


_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(
    image: Image.Image, preprocessing: Preprocessing, scale: Scale | None = None
) -> Image.Image:
    """Resize (and crop) an RGB image in the contract's mode; one of the right size is unchanged.

    `scale` is the one at which the photo was decoded.
    """
    scale = scale or _full(image)
    resample = _FILTERS[preprocessing.filter]
    match preprocessing.resize:
        case Crop() as crop:
            return _crop(image, crop, resample, scale)
        case Squash() | Buckets():
            return _scale(image, preprocessing.input_size(*scale.size), resample, scale)


def least_decoded_size(preprocessing: Preprocessing, size: Size) -> Size:
    """Return the least size at which a JPEG of this size may be decoded."""
    gap, resize = preprocessing.jpeg_reducing_gap, preprocessing.resize
    if gap is None:
        return size
    if isinstance(resize, Crop):
        if _uncut_size(*size) != size:
            return size
        width, height = _short_side_size(size, resize.short_side)
    else:
        width, height = preprocessing.input_size(*size)
    return math.ceil(gap * width), math.ceil(gap * height)


def _crop(image: Image.Image, crop: Crop, resample: Image.Resampling, scale: Scale) -> Image.Image:
    if (uncut := _uncut_size(*scale.size)) != scale.size:  # the photo was decoded in full
        image = _cut_centre(image, *uncut)
        scale = _full(image)
    scaled = _scale(image, _short_side_size(scale.size, crop.short_side), resample, scale)
    return _cut_centre(scaled, crop.width, crop.height)


def visible_box(width: int, height: int, preprocessing: Preprocessing) -> Box:
    """Return the part of a photo of this size that the graph sees, in the photo's pixels."""
    match preprocessing.resize:
        case Crop() as crop:
            uncut = _uncut_size(width, height)
            scaled = _short_side_size(uncut, crop.short_side)
            left, right = _visible(width, uncut[0], scaled[0], crop.width)
            top, bottom = _visible(height, uncut[1], scaled[1], crop.height)
            return Box(left, top, right, bottom)
        case Squash() | Buckets():
            return Box(0.0, 0.0, float(width), float(height))


def _visible(side: int, uncut: int, scaled: int, cropped: int) -> tuple[float, float]:
    """Return the start and the end of the crop on one side of the photo."""
    start = (side - uncut) // 2 + (scaled - cropped) // 2 * uncut / scaled
    return start, start + cropped * uncut / scaled


def _uncut_size(width: int, height: int) -> Size:
    longest = MAX_ASPECT_RATIO * min(width, height)
    return min(width, longest), min(height, longest)


def _full(image: Image.Image) -> Scale:
    return Scale(image.size, Box(0.0, 0.0, float(image.width), float(image.height)))


def _scale(image: Image.Image, size: Size, resample: Image.Resampling, scale: Scale) -> Image.Image:
    return image if scale.size == size else image.resize(size, resample, scale.box)


def _short_side_size(size: Size, short_side: int) -> Size:
    scale = short_side / min(size)
    width, height = size
    return max(short_side, int(width * scale + 0.5)), max(short_side, int(height * scale + 0.5))


def _cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
