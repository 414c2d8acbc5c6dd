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
    ImageOps,
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from PIL.JpegImagePlugin import JpegImageFile

from service.errors import (
    InvalidRequest,
    MemoryExhausted,
    PayloadTooLarge,
    ServiceError,
    UnsupportedMediaType,
)
from service.images.color import to_rgb
from service.images.color_profile import to_srgb
from service.images.frames import check_first_frame, load_frame
from service.images.jpeg import decodable
from service.images.jpeg_scale import scale_down
from service.images.quiet import silence_decoders
from service.images.resize import Scale
from service.images.structure import MAX_SIDE, check_structure, significant_bits, skip_metadata
from service.images.tiff import check_kind, check_unread, is_inverted, white_level
from service.schema.preprocessing import Preprocessing

# `ImageLimits` replaces Pillow's own limit, which only warns up to twice its value.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns about odd metadata, which does not matter here.
warnings.filterwarnings("ignore", module=r"PIL\.")
silence_decoders()

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
_UNSUPPORTED = "Unsupported "
_OUT_OF_MEMORY = "out of memory"
"""Pillow's words for what a decoder lacks."""
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


def decode(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits, frame: int | None = None
) -> Image.Image:
    """Return a frame, upright, in full size, as 8-bit RGB; otherwise like `decode_scaled`."""
    in_full = preprocessing.model_copy(update={"jpeg_reducing_gap": None})
    return decode_scaled(data, in_full, limits, frame)[0]


def decode_scaled(
    data: bytes, preprocessing: Preprocessing, limits: ImageLimits, frame: int | None = None
) -> tuple[Image.Image, Scale | None]:
    """Return a frame, by default the first visible one, upright, as 8-bit RGB.

    The scale is that of a JPEG which was decoded just as large as the contract requires.

    Raises:
        UnsupportedMediaType: the format, or this kind of it, is not supported.
        PayloadTooLarge: the image, or the structure of its file, exceeds a limit.
        InvalidRequest: Pillow cannot decode the file.
        MemoryExhausted: the server has too little memory.
    """
    try:
        name = signed_format(data)
        if name is None:
            raise UnsupportedMediaType("it is not a JPEG, PNG, WebP, BMP, GIF or TIFF file")
        image = _open(name, data, limits)
        scale = _scale_down(image, preprocessing)
        load_frame(image, data, frame, limits.max_pixels)
        transpose = _transpose(image, preprocessing)
        image = _to_rgb(image, data, preprocessing)  # frees the image as it was decoded
        return image if transpose is None else image.transpose(transpose), scale
    except ServiceError:
        raise
    except MemoryError as error:
        raise MemoryExhausted("the server has too little memory to decode it") from error
    except Exception as error:  # Pillow may raise anything on broken bytes
        raise _refusal(error) from error


def _open(name: str, data: bytes, limits: ImageLimits) -> Image.Image:
    """Open a file of this format within the limits, without decoding it."""
    parts = check_structure(name, data)
    match name:
        case "JPEG":
            data = decodable(data, parts)
        case "PNG":
            data = skip_metadata(data, parts)
        case "GIF":
            check_first_frame(data, limits.max_pixels)
    try:
        image: Image.Image = Image.open(io.BytesIO(data), formats=[name])
    except (UnidentifiedImageError, KeyError):
        if name == "TIFF":
            check_unread(data)
        raise
    check_size(image, limits)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        check_kind(image.tag_v2)
    return image


def _to_rgb(image: Image.Image, data: bytes, preprocessing: Preprocessing) -> Image.Image:
    white, is_negative = None, False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        white, is_negative = white_level(image.tag_v2), is_inverted(image.tag_v2)
    elif image.format == "PNG" and image.mode.startswith("I;16"):
        bits = significant_bits(data)
        white = 2**bits - 1 if bits is not None and bits <= 16 else None
    if preprocessing.color_profile == "srgb":
        image = to_srgb(image)
    rgb = to_rgb(image, preprocessing.fill, white)
    return ImageOps.invert(rgb) if is_negative else rgb


def _refusal(error: Exception) -> ServiceError:
    """Return the error for the client; the log has the decoder's own reason."""
    reason = str(error)
    if reason.startswith(_UNSUPPORTED):
        return UnsupportedMediaType(f"its kind is not supported ({reason})")
    if _OUT_OF_MEMORY in reason:
        return MemoryExhausted("the server has too little memory to decode it")
    is_truncated = isinstance(error, EOFError) or "truncated" in reason.lower()
    what = "the file is truncated" if is_truncated else "the file is damaged"
    return InvalidRequest(f"it cannot be decoded: {what}")


def signed_format(data: bytes) -> str | None:
    """Return the format whose signature the data start with; None if it is not supported."""
    for signature, name in _SIGNATURES.items():
        if data.startswith(signature):
            return name
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


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


def _scale_down(image: Image.Image, preprocessing: Preprocessing) -> Scale | None:
    if preprocessing.jpeg_reducing_gap is None or not isinstance(image, JpegImageFile):
        return None
    return scale_down(image, preprocessing, _transpose(image, preprocessing))


def _transpose(image: Image.Image, preprocessing: Preprocessing) -> Image.Transpose | None:
    """Return what turns an image upright; formats other than JPEG say so once they are loaded."""
    return _UPRIGHT.get(_orientation(image)) if preprocessing.exif_orientation else None


def _orientation(image: Image.Image) -> int:
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # a photo with broken metadata is still readable
    return orientation if isinstance(orientation, int) else 1
