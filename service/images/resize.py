"""Resize and crop an RGB image as the contract says."""

from PIL import Image

from service.schema.preprocessing import Buckets, Crop, Preprocessing, Squash

MAX_ASPECT_RATIO = 16  # of what is scaled before a crop: a strip would become a huge image
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    """Resize (and crop) an RGB image by the contract's mode; unchanged where it fits."""
    resample = _FILTERS[preprocessing.filter]
    match preprocessing.resize:
        case Squash() | Buckets():
            return _scale(image, preprocessing.input_size(*image.size), resample)
        case Crop() as crop:
            middle = _cut_centre(image, *_at_most(MAX_ASPECT_RATIO, image.size))
            scaled = _scale(middle, _short_side_size(middle.size, crop.short_side), resample)
            return _cut_centre(scaled, crop.width, crop.height)


def _scale(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    return image if image.size == size else image.resize(size, resample)


def _short_side_size(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    scale = short_side / min(size)
    width, height = (max(short_side, int(side * scale + 0.5)) for side in size)
    return width, height


def _at_most(ratio: int, size: tuple[int, int]) -> tuple[int, int]:
    longest = ratio * min(size)
    return min(size[0], longest), min(size[1], longest)


def _cut_centre(image: Image.Image, width: int, height: int) -> Image.Image:
    if image.size == (width, height):
        return image
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
