"""Embedded colour profiles (ICC): converts the colours of an image to sRGB."""

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

from service.errors import PayloadTooLarge, UnsupportedMediaType

MAX_PROFILE_BYTES = 4 * 1024 * 1024
MAX_CACHED = 16
"""Transforms in memory, with their profiles: 64 MiB at most, usually less than one."""
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_FLAGS = ImageCms.Flags.BLACKPOINTCOMPENSATION
_COLOR_SPACES = {"RGB": "RGB ", "RGBA": "RGB ", "L": "GRAY", "CMYK": "CMYK"}
"""The colour space of a profile for an image of this mode."""
_LEVELS = (0, 51, 102, 153, 204, 255)
_TOLERANCE = 2  # levels: sRGB profiles of different makers differ by as much
_ELEMENTS = b"mpet"


def to_srgb(image: Image.Image) -> Image.Image:
    """Convert an image to sRGB; one without a profile, or with an unusable one, is unchanged.

    Raises `PayloadTooLarge` or `UnsupportedMediaType` if the profile itself is refused.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode in ("P", "PA") or (image.mode == "RGB" and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    elif image.mode == "L" and image.has_transparency_data:
        image = image.convert("LA")
    if image.mode == "LA":
        return _apply_to_grey_and_alpha(image, profile)
    transform = _transform(profile, image.mode)
    if transform is None:
        return image
    # "In place" halves the memory.
    if image.mode in ("RGB", "RGBA"):
        ImageCms.applyTransform(image, transform, inPlace=True)
        return image
    return ImageCms.applyTransform(image, transform) or image


def _apply_to_grey_and_alpha(image: Image.Image, profile: bytes) -> Image.Image:
    transform = _transform(profile, "L")
    if transform is None:
        return image
    grey, alpha = image.split()
    converted = ImageCms.applyTransform(grey, transform) or grey
    converted.putalpha(alpha)
    return converted


@lru_cache(MAX_CACHED)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform to sRGB; None if there is nothing to convert, or no way to do it."""
    if len(profile) > MAX_PROFILE_BYTES:
        raise PayloadTooLarge(
            f"its colour profile has more than the {MAX_PROFILE_BYTES:,} bytes allowed"
        )
    if _ELEMENTS in profile:  # a chain of any length, evaluated thousands of times
        raise UnsupportedMediaType("colour profiles with processing elements are not supported")
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space != _COLOR_SPACES.get(mode):
            return None
        target = ImageCms.createProfile("sRGB")
        result = mode if mode == "RGBA" else "RGB"
        transform = ImageCms.buildTransform(source, target, mode, result, _INTENT, _FLAGS)
    except (ImageCms.PyCMSError, OSError):
        return None
    return transform if mode == "CMYK" or _changes_colors(transform, mode) else None


def _changes_colors(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether any colour of a coarse grid changes visibly."""
    shape = (256,) if mode == "L" else (len(_LEVELS),) * 3
    grid = np.indices(shape).reshape(len(shape), -1).T
    levels = grid if mode == "L" else np.asarray(_LEVELS)[grid]
    before = Image.fromarray(np.broadcast_to(levels, (len(levels), 3)).astype(np.uint8)[None])
    after = ImageCms.applyTransform(before.convert(mode), transform) or before
    difference = np.asarray(before, np.int16) - np.asarray(after.convert("RGB"), np.int16)
    return bool(np.abs(difference).max() > _TOLERANCE)
