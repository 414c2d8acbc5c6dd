"""Resize and crop an RGB image as the contract describes."""

from PIL import Image

from service.schema.preprocessing import Buckets, Crop, Preprocessing, Squash

MAX_ASPECT_RATIO = (
    16  # beyond it, a strip is cut before scaling; otherwise it would become a huge image
)
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
    longest = MAX_ASPECT_RATIO * min(image.size)
    if max(image.size) > longest:
        image = _cut_centre(image, min(image.width, longest), min(image.height, longest))
    scaled = _scale(image, _short_side_size(image.size, crop.short_side), resample)
    return _cut_centre(scaled, crop.width, crop.height)


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
