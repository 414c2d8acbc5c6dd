"""The frame of an animated image: a chosen one, or the first that shows anything."""

import struct
from collections.abc import Iterator
from itertools import islice

from PIL import Image

from service.errors import InvalidRequest, PayloadTooLarge
from service.images.structure import MAX_PARTS, MAX_SIDE

MAX_INVISIBLE = 16
"""Frames without a visible pixel that are skipped at the beginning."""
MIN_PIXELS = 1 << 16
"""Cost of a frame in pixels, however small it is; all frames up to the chosen one are decoded."""
MAX_GIF_BLOCKS = 16 * MAX_PARTS  # of up to 255 bytes: 64 MiB
_ANIMATED = frozenset({"GIF", "WEBP", "PNG", "AVIF"})


def load_frame(image: Image.Image, data: bytes, frame: int | None, max_pixels: int) -> None:
    """Decode frame `frame`, counted from 0; by default, the first with a visible pixel.

    Raises `InvalidRequest` if there is no such frame, and `PayloadTooLarge` if it needs more than
    `max_pixels` pixels to be decoded.
    """
    if frame is not None:
        _seek(image, data, frame, max_pixels)
        image.load()
        return
    first = 1 if getattr(image, "default_image", False) else 0  # shown only without animation
    _seek(image, data, first, max_pixels)
    image.load()
    for number in range(first + 1, first + MAX_INVISIBLE):
        if not _is_invisible(image):
            return
        try:
            _seek(image, data, number, max_pixels)
        except (InvalidRequest, PayloadTooLarge):  # nothing is visible at all
            return
        image.load()


def check_first_frame(data: bytes, max_pixels: int) -> None:
    """Reject a GIF by its first frame, for which Pillow may allocate memory on opening."""
    _check_gif(data, 0, max_pixels)


def _seek(image: Image.Image, data: bytes, frame: int, max_pixels: int) -> None:
    if frame == 0:
        return
    frames = max_pixels // max(MIN_PIXELS, image.width * image.height)
    if frame >= frames:
        raise PayloadTooLarge(f"frame may be {max(0, frames - 1)} at most for an image of its size")
    if image.format not in _ANIMATED:
        raise InvalidRequest(f"it has no frame {frame}: only {_LISTED} files have several")
    if image.format == "GIF":
        _check_gif(data, frame, max_pixels)
    try:
        image.seek(frame)
    except EOFError:
        raise InvalidRequest(f"it has no frame {frame}; the first is 0") from None


_LISTED = "GIF, WebP, APNG and AVIF"


def _is_invisible(image: Image.Image) -> bool:
    """Return whether a frame of an animation has no visible pixel."""
    if image.format not in _ANIMATED or not image.has_transparency_data:
        return False
    if not getattr(image, "is_animated", False):
        return False
    alpha = image.convert("RGBA").getchannel("A").getextrema()
    return alpha == (0, 0)


def _check_gif(data: bytes, frame: int, max_pixels: int) -> None:
    """Reject frames, up to the given one, that reach beyond the limits."""
    for right, bottom in islice(_gif_extents(data), frame + 1):
        if max(right, bottom) > MAX_SIDE or right * bottom > max_pixels:
            raise PayloadTooLarge(
                f"it has a frame of {right} x {bottom} pixels; {max_pixels:,} are allowed"
            )


def _gif_extents(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the right and the bottom edge of each frame of a GIF."""
    at = 13 + _palette_bytes(data[10:11])
    blocks = 0
    while data[at : at + 1] in (b"!", b",") and len(data) >= at + 11:
        if data[at] == ord(","):
            left, top, width, height = struct.unpack_from("<4H", data, at + 1)
            yield left + width, top + height
            at += 11 + _palette_bytes(data[at + 9 : at + 10])
        else:
            at += 2
        while length := int.from_bytes(data[at : at + 1]):
            at += 1 + length
            blocks += 1
            if blocks > MAX_GIF_BLOCKS:
                raise PayloadTooLarge(f"it has more than the {MAX_GIF_BLOCKS:,} blocks allowed")
        at += 1


def _palette_bytes(flags: bytes) -> int:
    value = int.from_bytes(flags)
    return 3 << (value & 7) + 1 if value & 0x80 else 0
