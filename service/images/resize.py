"""Resize and crop an RGB image as the contract describes."""

from typing import NamedTuple

from PIL import Image

from service.schema.preprocessing import Buckets, Crop, Preprocessing, Squash

MAX_ASPECT_RATIO = (
    16  # beyond it, a strip is cut before scaling; otherwise it would become a huge image
)


class Box(NamedTuple):
    """A rectangle in pixels of a photo; the right and bottom edges are not part of it."""

    left: float
    top: float
    right: float
    bottom: float


_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize (and crop) an RGB image in the contract's mode; one of the right size is unchanged."""
    resample = _FILTERS[preprocessing.filter]
    match preprocessing.resize:
        case Crop() as crop:
            return _crop(image, crop, resample)
        case Squash() | Buckets():
            return _scale(image, preprocessing.input_size(*image.size), resample)


def _crop(image: Image.Image, crop: Crop, resample: Image.Resampling) -> Image.Image:
    image = _cut_centre(image, *_uncut_size(*image.size))
    scaled = _scale(image, _short_side_size(image.size, crop.short_side), resample)
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


def _uncut_size(width: int, height: int) -> tuple[int, int]:
    longest = MAX_ASPECT_RATIO * min(width, height)
    return min(width, longest), min(height, longest)


def _scale(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    width, height = size
    return max(short_side, int(width * scale + 0.5)), max(short_side, int(height * scale + 0.5))


def _cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
