"""Every image mode as RGB."""

import struct

import numpy as np
import pytest
from PIL import Image

from tests.service.images.decoding import GREY, decoded, middle
from tests.service.photos import encode, solid


def mode_cases() -> dict[str, tuple[bytes, list[int]]]:
    half = Image.new("RGBA", (9, 9), (0, 0, 0, 51))  # 20 % black over the white fill
    palette = solid((10, 200, 30)).quantize(4)
    return {
        "1": (encode(Image.new("1", (9, 9), 1)), [255, 255, 255]),
        "L": (encode(Image.new("L", (9, 9), 77)), [77, 77, 77]),
        "P": (encode(palette), [10, 200, 30]),
        "P with transparency": (encode(palette, transparency=0), [255, 255, 255]),
        "LA": (encode(Image.new("LA", (9, 9), (0, 51))), [204, 204, 204]),
        "RGBA": (encode(half), [204, 204, 204]),
        "RGBA WebP": (encode(half, "WEBP", lossless=True), [204, 204, 204]),
        "RGB with a transparent colour": (
            encode(solid((1, 2, 3)), transparency=(1, 2, 3)),
            [255, 255, 255],
        ),
        "I;16": (encode(Image.fromarray(np.full((9, 9), 40 * 257, np.uint16))), [40, 40, 40]),
        "I;16 TIFF": (
            encode(Image.fromarray(np.full((9, 9), 65535, np.uint16)), "TIFF"),
            [255, 255, 255],
        ),
        "I;16B TIFF": (big_endian_tiff(300), [1, 1, 1]),
        "CMYK": (encode(Image.new("CMYK", (9, 9), (0, 255, 255, 0)), "TIFF"), [255, 0, 0]),
        "YCbCr": (encode(Image.new("YCbCr", (9, 9), (128, 128, 128)), "TIFF"), list(GREY)),
    }


def big_endian_tiff(value: int) -> bytes:
    tags = [(256, 4, 9), (257, 4, 9), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 200)]
    tags += [(277, 3, 1), (278, 4, 9), (279, 4, 162)]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + struct.pack(">I" if kind == 4 else ">Hxx", number)
        for tag, kind, number in tags
    )
    head = b"MM\0*" + struct.pack(">IH", 8, len(tags)) + entries + bytes(4)
    return head.ljust(200, b"\0") + struct.pack(">81H", *[value] * 81)


@pytest.mark.parametrize(("data", "color"), mode_cases().values(), ids=mode_cases().keys())
def test_every_mode_becomes_rgb(data: bytes, color: list[int]) -> None:
    assert middle(data) == color


def test_lab_is_converted() -> None:
    white = middle(encode(Image.new("LAB", (9, 9), (255, 128, 128)), "TIFF"))
    assert min(white) > 250


def test_a_cmyk_jpeg_keeps_its_colours() -> None:
    red = middle(encode(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=95))
    assert red[0] > 240
    assert max(red[1:]) < 20


@pytest.mark.parametrize(
    "values",
    [
        np.linspace(-5, 7, 256, dtype=np.float32).reshape(16, 16),
        np.arange(-1000, 1560, 10, dtype=np.int32).reshape(16, 16),
    ],
    ids=["F", "I"],
)
def test_wide_grey_is_scaled_from_its_own_range(values: np.ndarray) -> None:
    grey = decoded(encode(Image.fromarray(values), "TIFF"))[..., 0].reshape(-1)
    assert np.array_equal(grey, np.arange(256))


def test_numbers_that_are_not_finite_do_not_break_the_range() -> None:
    values = np.array([[0, 1, np.nan], [np.inf, -np.inf, 0.5]], np.float32)
    grey = decoded(encode(Image.fromarray(values), "TIFF"))[..., 0]
    assert grey.tolist() == [[0, 255, 0], [255, 0, 128]]


@pytest.mark.parametrize("fill", [0.25, np.nan])
def test_a_constant_wide_grey_image_is_black(fill: float) -> None:
    image = Image.fromarray(np.full((4, 4), fill, np.float32))
    assert decoded(encode(image, "TIFF")).max() == 0
