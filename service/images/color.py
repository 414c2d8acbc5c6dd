"""Convert any image mode to 8-bit RGB, in strips so that wide intermediates stay small."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.schema.record import Color

Convert = Callable[[Image.Image], Image.Image]
STRIP_PIXELS = 1 << 20
WHITE_16 = 65_535
DARK_16 = 4096
"""An image of 16 bits without a value of this size probably has 12 significant bits or fewer."""
WARNING = "vt-serve.warning"
"""Key in the `info` of an image: doubt about its colours."""


def to_rgb(image: Image.Image, fill: Color, white: int | None = None) -> Image.Image:
    """Convert any mode to 8-bit RGB; transparency is composited over `fill`.

    `white` is the value of white that a file of up to 16 bits of grey states. It is ignored if
    the image exceeds it.
    """
    if image.mode.startswith("I;16"):
        return _from_16_bits(image, white)
    if image.mode in ("I", "F"):
        return _in_strips(image, _stretch(*_range(image)))
    if image.has_transparency_data:
        return _in_strips(image, partial(_composite, fill=fill))
    return image if image.mode == "RGB" else image.convert("RGB")


def _in_strips(image: Image.Image, convert: Convert) -> Image.Image:
    """Convert a few rows at a time."""
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


def _from_16_bits(image: Image.Image, white: int | None) -> Image.Image:
    peak = max(int(np.asarray(strip).max()) for _, strip in _strips(image))
    if white is not None and peak <= white:
        return _in_strips(image, partial(_narrow, white=white))
    result = _in_strips(image, partial(_narrow, white=WHITE_16))
    if 0 < peak < DARK_16:
        result.info[WARNING] = (
            f"no value exceeds {peak:,} of {WHITE_16:,}, so it is nearly black; if it has fewer "
            "significant bits, state them: sBIT in a PNG, MaxSampleValue in a TIFF"
        )
    return result


def _narrow(strip: Image.Image, white: int) -> Image.Image:
    wide = np.asarray(strip).astype(np.uint32)
    return _grey((wide * 255 + white // 2) // white)


def _stretch(low: float, high: float) -> Convert:
    """Map the range from `low` to `high` to 0-255; a constant image becomes black."""
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
    """Return the smallest and largest finite number."""
    low, high = np.inf, -np.inf
    for _, strip in _strips(image):
        values = np.asarray(strip, np.float64)
        finite = np.isfinite(values)
        low = min(low, values.min(initial=np.inf, where=finite))
        high = max(high, values.max(initial=-np.inf, where=finite))
    return (float(low), float(high)) if low <= high else (0.0, 0.0)
