"""The frame of an animation: the first that shows anything, or the one that was asked for."""

import struct

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidRequest, PayloadTooLarge
from service.images.decode import ImageLimits, decode
from tests.service.images.decoding import SQUASH
from tests.service.photos import encode, solid

COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
LIMITS = ImageLimits(max_pixels=1_000_000)
ANIMATED = ["GIF", "WEBP", "PNG"]


def middle(data: bytes, frame: int | None = None) -> tuple[int, ...]:
    """The colour in the middle, rounded to 0 and 255."""
    pixels = np.asarray(decode(data, SQUASH, LIMITS, frame))
    return tuple(((pixels[15, 20] > 127) * 255).tolist())


def animation(name: str, frames: list[Image.Image]) -> bytes:
    options = {"lossless": True} if name == "WEBP" else {}
    return encode(frames[0], name, save_all=True, append_images=frames[1:], **options)


@pytest.mark.parametrize("name", ANIMATED)
def test_a_frame_is_chosen_by_its_number(name: str) -> None:
    data = animation(name, [solid(color) for color in COLORS])
    assert [middle(data, frame) for frame in (0, 1, 2)] == list(COLORS)
    assert middle(data) == COLORS[0]
    with pytest.raises(InvalidRequest, match="it has no frame 3"):
        middle(data, 3)


@pytest.mark.parametrize("name", ANIMATED)
def test_frames_that_show_nothing_are_skipped(name: str) -> None:
    nothing = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    data = animation(name, [nothing, solid((0, 255, 0)).convert("RGBA")])
    assert middle(data) == (0, 255, 0)
    assert middle(data, 0) == (255, 255, 255)


def test_a_picture_with_a_single_invisible_frame_is_the_fill() -> None:
    nothing = Image.new("RGBA", (40, 30), (0, 0, 0, 0))
    assert middle(encode(nothing)) == (255, 255, 255)


def test_the_picture_of_an_animated_png_that_is_not_part_of_it_is_skipped() -> None:
    frames = [solid(color) for color in COLORS[1:]]
    data = encode(solid(), save_all=True, append_images=frames, default_image=True)
    assert middle(data) == COLORS[1]
    assert middle(data, 0) == COLORS[0]


@pytest.mark.parametrize("name", ["JPEG", "BMP", "TIFF"])
def test_other_formats_have_one_frame(name: str) -> None:
    data = encode(solid(), name)
    assert middle(data, 0) == (255, 0, 0)
    with pytest.raises(InvalidRequest, match="only GIF, WebP, APNG and AVIF files have several"):
        middle(data, 1)


def test_the_frames_before_the_chosen_one_count_as_pixels() -> None:
    frames = [solid(color) for color in COLORS] * 6
    data = animation("GIF", frames)
    with pytest.raises(PayloadTooLarge, match="frame may be 14 at most"):
        middle(data, 15)
    assert middle(data, 14) == COLORS[2]


@pytest.mark.parametrize("number", [0, 1])
def test_a_huge_frame_of_a_gif_is_refused_before_memory_is_allocated(number: int) -> None:
    """Pillow fills as much memory as the frame says when it opens the file."""
    frames = [solid(COLORS[n], (4, 4)) for n in range(2)]
    data = bytearray(encode(frames[0], "GIF", save_all=True, append_images=frames[1:], disposal=2))
    at = -1
    for _ in range(number + 1):
        at = data.index(b",\0\0\0\0\4\0", at + 1)
    data[at + 5 : at + 9] = struct.pack("<HH", 60_000, 60_000)
    with pytest.raises(PayloadTooLarge, match="a frame of 60000 x 60000 pixels"):
        middle(bytes(data), number)
