"""Decode an image file to an upright 8-bit RGB image.

Every file is treated as hostile. Limits are checked on the header, before pixels are allocated, and
any exception that Pillow raises on broken bytes is reported as the client's error.
"""

import io
import warnings
from dataclasses import dataclass

from PIL import (  # imports the plug-ins now, so that no request waits for it
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

# `ImageLimits` replaces Pillow's own limit, which only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about odd metadata, which does not matter here.
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_SIDE = 65_535  # the memory of resize weights grows with the side, not with the area
MAX_TILE_PIXELS = 1 << 24  # a TIFF tile is decoded whole, even if the image is small
MAX_WEBP_PIXELS = 1 << 24  # Pillow copies the canvas without releasing the GIL
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
    """Limits on one image."""

    max_pixels: int


def decode(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> Image.Image:
    """Return the first frame, upright, as 8-bit RGB.

    Raises:
        UnsupportedMediaType: the format is not supported.
        PayloadTooLarge: the image, or the structure of its file, exceeds a limit.
        InvalidRequest: Pillow cannot decode the file.
    """
    try:
        name = signed_format(data)
        if name is None:
            raise UnsupportedMediaType("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF file")
        check_structure(name, data)
        image: Image.Image = Image.open(io.BytesIO(data), formats=[name])
        check_size(image, limits)
        image.load()
        if preprocessing.exif_orientation:
            image = _turn_upright(image)
        return to_rgb(image, preprocessing.fill)
    except ServiceError:
        raise
    except Exception as error:  # Pillow may raise anything on broken bytes
        raise InvalidRequest(f"it cannot be decoded: {_reason(error)}") from error


def signed_format(data: bytes) -> str | None:
    """Return the format whose signature the data start with; None if it is not supported."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def _reason(error: Exception) -> str:
    is_truncated = isinstance(error, EOFError) or "truncated" in str(error).lower()
    return "the file is truncated" if is_truncated else "the file is damaged"


def check_size(image: Image.Image, limits: ImageLimits) -> None:
    """Reject an opened image that is too large to decode."""
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
    if isinstance(image, TiffImagePlugin.TiffImageFile) and _tile_pixels(image) > MAX_TILE_PIXELS:
        raise PayloadTooLarge(f"its tiles have more than {MAX_TILE_PIXELS:,} pixels")


def _tile_pixels(image: TiffImagePlugin.TiffImageFile) -> int:
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
        return 1  # a photo with broken metadata is still readable
    return orientation if isinstance(orientation, int) else 1
