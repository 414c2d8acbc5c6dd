"""An image file's bytes to an upright 8-bit RGB image.

Everything that arrives here is hostile until decoded: limits are checked on the header, before
a pixel is allocated, and whatever Pillow raises on broken bytes is the client's error.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import (  # the plug-ins too, so that no request pays for loading all of Pillow's
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    WebPImagePlugin,  # noqa: F401
)

from service.errors import (
    InvalidRequest,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMediaType,
)
from service.images.color import to_rgb
from service.images.structure import check_structure
from service.schema.preprocessing import Preprocessing

# Pillow's own limit only warns until an image is twice too large; `ImageLimits` replaces it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata; the image is what counts here.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_SIDE = 65_535  # a resize's table of weights grows with the side, whatever the area
MAX_TILE_PIXELS = 1 << 24  # a TIFF's tile is decoded whole, even where the image is small
MAX_WEBP_PIXELS = 1 << 24  # Pillow copies the canvas while no other thread may run
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageLimits:
    """What an image may cost."""

    max_pixels: int


def decode(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> Image.Image:
    """Return the first frame, upright, as 8-bit RGB."""
    with _clients_error():
        name = _format(data)
        check_structure(name, data)
        image: Image.Image = Image.open(io.BytesIO(data), formats=[name])
        check_size(image, limits)
        image.load()
        if preprocessing.exif_orientation:
            image = _turn_upright(image)
        return to_rgb(image, preprocessing.fill)


@contextmanager
def _clients_error() -> Iterator[None]:
    """Turn what Pillow raises on broken bytes, which may be anything, into a refusal."""
    try:
        yield
    except ServiceError:
        raise
    except Exception as error:
        raise InvalidRequest(f"it cannot be decoded: {_why(error)}") from error


def is_image_file(data: bytes) -> bool:
    """Whether this begins as a file of one of the formats on the list does."""
    return _signed_format(data) is not None


def _format(data: bytes) -> str:
    name = _signed_format(data)
    if name is None:
        raise UnsupportedMediaType("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF file")
    return name


def _signed_format(data: bytes) -> str | None:
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for start, name in _SIGNATURES.items() if data.startswith(start)), None)


def _why(error: Exception) -> str:
    cut_short = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return "the file is truncated" if cut_short else "the file is damaged"


def check_size(image: Image.Image, limits: ImageLimits) -> None:
    """Refuse an opened image that is too large to be decoded."""
    width, height = image.size
    if width < 1 or height < 1:
        raise InvalidRequest("it has no pixels")
    if max(width, height) > MAX_SIDE:
        raise PayloadTooLarge(
            f"it has {width} x {height} pixels; a side may have {MAX_SIDE:,} at most"
        )
    allowed = limits.max_pixels
    if image.format == "WEBP":
        allowed = min(allowed, MAX_WEBP_PIXELS)
    if width * height > allowed:
        raise PayloadTooLarge(f"it has {width} x {height} pixels; {allowed:,} are allowed")
    if _tile_pixels(image) > MAX_TILE_PIXELS:
        raise PayloadTooLarge(f"its tiles have more than {MAX_TILE_PIXELS:,} pixels")


def _tile_pixels(image: Image.Image) -> int:
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    sides = (image.tag_v2.get(tag) for tag in (TiffImagePlugin.TILEWIDTH, 323))
    width, height = (side if isinstance(side, int) else 1 for side in sides)
    return width * height


def _turn_upright(image: Image.Image) -> Image.Image:
    transpose = _UPRIGHT.get(_orientation(image))
    return image if transpose is None else image.transpose(transpose)


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # broken metadata does not make a photo unreadable
    return orientation if isinstance(orientation, int) else 1
