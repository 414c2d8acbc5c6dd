"""A photo to measure with."""

import io

from PIL import Image

from service.images.photo import ImageArray


def sample_photo(pixels: ImageArray, width: int, height: int) -> bytes:
    """Return an image, UINT8 [height, width, 3], scaled to a size, as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).resize((width, height)).save(file, "JPEG", quality=90)
    return file.getvalue()
