"""Decode a JPEG at 1/2, 1/4 or 1/8 of its sides, which libjpeg does in a fraction of the time."""

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from service.images.resize import Box, Scale, Size, least_decoded_size
from service.schema.preprocessing import Preprocessing

_TURNED = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    }
)
"""Swap width and height."""
_FROM_RIGHT = frozenset(
    {
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
    }
)
_FROM_BOTTOM = frozenset(
    {
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_90,
        Image.Transpose.TRANSVERSE,
    }
)
"""The edges at which the decoded image begins once it is upright."""


def scale_down(
    image: JpegImageFile, preprocessing: Preprocessing, transpose: Image.Transpose | None
) -> Scale | None:
    """Choose the smallest scale that the contract allows, before the image is loaded.

    Returns the size of the photo once it is upright, and its place in the decoded image, whose last
    column and row may be incomplete; None if the photo is decoded in full.
    """
    turned = transpose in _TURNED
    stored = image.size
    size = _swapped(stored) if turned else stored
    least = least_decoded_size(preprocessing, size)
    drafted = image.draft(None, _swapped(least) if turned else least)
    if drafted is None or image.size == stored:
        return None
    *_, width, height = drafted[1]
    right, bottom = image.size[0] - width, image.size[1] - height
    if turned:
        width, height, right, bottom = height, width, bottom, right
    left = right if transpose in _FROM_RIGHT else 0.0
    top = bottom if transpose in _FROM_BOTTOM else 0.0
    return Scale(size, Box(left, top, left + width, top + height))


def _swapped(size: Size) -> Size:
    return size[1], size[0]
