"""Colours of a decoded image as the service understands them: its profile and its white.

The service implements the same rules in `service/images/`; a test compares the two.
"""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms, TiffImagePlugin

_COLOR_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
_TOLERANCE = 2
_MAX_SAMPLE_VALUE = 281
_WHITE = "vt-export.white"


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image to sRGB by its embedded profile; without a usable one it is unchanged."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    transparent = image.has_transparency_data
    if image.mode in ("P", "PA", "RGB"):
        image = image.convert("RGBA" if transparent else "RGB")
    elif image.mode in ("L", "LA") and transparent:
        grey, alpha = image.convert("LA").split()
        converted = _applied(grey, profile)
        if converted is grey:
            return image
        converted.putalpha(alpha)
        return converted
    return _applied(image, profile)


def _applied(image: Image.Image, profile: bytes) -> Image.Image:
    transform = _transform(profile, image.mode)
    return image if transform is None else ImageCms.applyTransform(image, transform) or image


@lru_cache(64)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB; None if it changes nothing or the profile is unusable."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _COLOR_SPACES.get(mode):
            return None
        transform = ImageCms.buildTransform(
            source,
            ImageCms.createProfile("sRGB"),
            mode,
            mode if mode == "RGBA" else "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError):
        return None
    return transform if mode == "CMYK" or _changes_colors(transform, mode) else None


def _changes_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    levels = np.arange(256) if mode == "L" else np.arange(0, 256, 51)
    axes = np.meshgrid(*[levels] * (1 if mode == "L" else 3))
    colors = np.stack([axis.ravel() for axis in (axes * 3)[:3]], -1).astype(np.uint8)[None]
    before = Image.fromarray(colors).convert(mode)
    after = ImageCms.applyTransform(before, transform) or before
    difference = colors.astype(int) - np.asarray(after.convert("RGB"), int)
    return bool(np.abs(difference).max() > _TOLERANCE)


def note_white(image: Image.Image, data: bytes) -> None:
    """Note the value of white that a file of 16-bit grey states, for `white_of`."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        (bits, *_) = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
        stated = image.tag_v2.get(_MAX_SAMPLE_VALUE, 0)
        stated = stated[0] if isinstance(stated, tuple) else stated
        if bits < 16 or stated > 255:
            image.info[_WHITE] = 2**bits - 1 if bits < 16 else stated
    elif image.format == "PNG":
        at = data.find(b"sBIT", 0, data.find(b"IDAT"))
        if at > 0 and data[at + 4] <= 16:
            image.info[_WHITE] = 2 ** data[at + 4] - 1


def white_of(image: Image.Image, peak: int) -> int:
    """Return the value of white of a 16-bit image with this largest value."""
    stated = image.info.get(_WHITE)
    return stated if stated is not None and peak <= stated else 65_535


def is_negative(image: Image.Image) -> bool:
    """Return whether Pillow decodes a TIFF, whose white is zero, as its negative."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return False
    photometric = image.tag_v2.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION, 0)
    (bits, *_) = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (1,))
    return bool(photometric == 0 and bits >= 16)
