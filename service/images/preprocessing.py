"""From an image file's bytes to the graph's input: decode, turn upright, to RGB, resize.

Everything that arrives here is hostile until decoded: limits are checked on the header, before
a pixel is allocated, and whatever Pillow raises on broken bytes is the client's error.
"""

import io
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
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
from service.images.structure import check_structure
from service.schema.contract import Buckets, Color, Crop, Preprocessing, Squash

# Pillow's own limit only warns until an image is twice too large; `ImageLimits` replaces it.
Image.MAX_IMAGE_PIXELS = None
# Pillow warns of odd metadata; the image is what counts here.
warnings.filterwarnings("ignore", module=r"PIL\.")

ImageArray = npt.NDArray[np.uint8]
Convert = Callable[[Image.Image], Image.Image]

MAX_SIDE = 65_535  # a resize's table of weights grows with the side, whatever the area
MAX_ASPECT_RATIO = 16  # of what is scaled before a crop: a strip would become a huge image
MAX_TILE_PIXELS = 1 << 24  # a TIFF's tile is decoded whole, even where the image is small
MAX_WEBP_PIXELS = 1 << 24  # Pillow copies the canvas while no other thread may run
STRIP_PIXELS = 1 << 20

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
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
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


@dataclass(frozen=True)
class PreparedImage:
    """The graph's input, UINT8 [height, width, 3], and the upright photo's own size."""

    pixels: ImageArray
    photo_width: int
    photo_height: int


EncodedOrPrepared = bytes | PreparedImage
"""An image file, or what has been the graph's input from the start."""


class Photo:
    """An image file on its way to the graph: prepared once, in the thread that needs it first."""

    def __init__(
        self, data: bytes, preprocessing: Preprocessing, limits: ImageLimits, index: int = 0
    ) -> None:
        self._data = data
        self._preprocessing = preprocessing
        self._limits = limits
        self._index = index
        self.prepared: PreparedImage | None = None
        self.prepare_seconds = 0.0

    @classmethod
    def ready(cls, image: PreparedImage) -> "Photo":
        """What needs no preparation."""
        photo = cls.__new__(cls)
        photo.prepared, photo.prepare_seconds = image, 0.0
        return photo

    def prepare(self) -> PreparedImage:
        """Return the graph's input; a refusal names the photo's index in its request."""
        if self.prepared is None:
            started = time.perf_counter()
            try:
                self.prepared = prepare(self._data, self._preprocessing, self._limits)
            except ServiceError as error:
                raise type(error)(f"Image {self._index} is refused: {error}.") from error
            self.prepare_seconds = time.perf_counter() - started
        return self.prepared

    def upright(self) -> Image.Image:
        """Decode the photo once more, whole: what waits for the model is the small image only."""
        return decode(self._data, self._preprocessing, self._limits)


def prepare(data: bytes, preprocessing: Preprocessing, limits: ImageLimits) -> PreparedImage:
    """Turn an image file into the graph's input, as the contract says."""
    photo = decode(data, preprocessing, limits)
    pixels = np.asarray(resize(photo, preprocessing))
    return PreparedImage(pixels, photo.width, photo.height)


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


def to_rgb(image: Image.Image, fill: Color) -> Image.Image:
    """Convert any mode to 8-bit RGB; transparency is composited over `fill`."""
    if image.mode.startswith("I;16"):
        return _in_strips(image, _narrow)
    if image.mode in ("I", "F"):
        return _in_strips(image, _stretch(*_range(image)))
    if image.has_transparency_data:
        return _in_strips(image, partial(_composite, fill=fill))
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_strips(image: Image.Image, convert: Convert) -> Image.Image:
    """Convert some rows at a time, so that wide intermediates stay small."""
    result = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        result.paste(convert(strip), (0, top))
    return result


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    width, height = image.size
    rows = max(1, STRIP_PIXELS // width)
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(height, top + rows)))


def _composite(strip: Image.Image, fill: Color) -> Image.Image:
    straight = {"La": "LA", "RGBa": "RGBA"}.get(strip.mode, strip.mode)
    rgba = strip.convert(straight).convert("RGBA")
    background = Image.new("RGBA", rgba.size, (*fill, 255))
    return Image.alpha_composite(background, rgba).convert("RGB")


def _narrow(strip: Image.Image) -> Image.Image:
    wide = np.asarray(strip).astype(np.uint32)
    return _grey((wide + 128) // 257)


def _stretch(low: float, high: float) -> Convert:
    """Map numbers of any range to 0-255 by their extremes; a constant image becomes black."""
    scale = 255 / ((high - low) or 1.0)

    def stretch(strip: Image.Image) -> Image.Image:
        values = np.asarray(strip, np.float64)
        return _grey(
            np.rint((np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * scale)
        )

    return stretch


def _grey(values: npt.NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(values.astype(np.uint8)).convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the least and greatest number; what is not finite does not count."""
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip, np.float64)
        finite = np.isfinite(values)
        low = min(low, values.min(initial=np.inf, where=finite))
        high = max(high, values.max(initial=-np.inf, where=finite))
    return (float(low), float(high)) if low <= high else (0.0, 0.0)


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
