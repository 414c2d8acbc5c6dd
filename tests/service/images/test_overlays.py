"""Label maps over photos, as pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import InvalidRequest
from service.images import overlays
from service.images.overlays import PictureFormat, encode_picture, fits, overlay
from tests.service.photos import noise, quarters, solid

PALETTE = [(128, 128, 128), (128, 64, 128), (128, 128, 0), (64, 0, 128)]


def test_the_overlay_blends_the_colours_into_the_photo_itself() -> None:
    photo = solid((0, 0, 0), (2, 1))
    assert overlay(photo, np.array([[0, 1]], np.uint8), PALETTE) is photo
    assert [photo.getpixel((x, 0)) for x in (0, 1)] == [(64, 64, 64), (64, 32, 64)]


def test_an_overlay_of_some_classes_leaves_the_rest_of_the_photo() -> None:
    labels = np.array([[255, 1]], np.uint8)
    image = overlay(solid((0, 0, 0), (2, 1)), labels, PALETTE, keep_other=True)
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(0, 0, 0), (64, 32, 64)]


def test_the_overlay_is_blended_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(1500, dtype=np.uint8).reshape(50, 30) % 4
    whole, blend, sizes = overlay(noise(30, 50), labels, PALETTE).tobytes(), Image.blend, []

    def recorded(one: Image.Image, other: Image.Image, alpha: float) -> Image.Image:
        sizes.append(one.size)
        return blend(one, other, alpha)

    monkeypatch.setattr(Image, "blend", recorded)
    monkeypatch.setattr(overlays, "BLEND_PIXELS", 215)
    assert overlay(noise(30, 50), labels, PALETTE).tobytes() == whole
    assert sizes == [(30, 7)] * 7 + [(30, 1)]


@pytest.mark.parametrize("picture", ["jpeg", "webp", "png"])
def test_a_picture_has_the_requested_format(picture: PictureFormat) -> None:
    image = Image.open(io.BytesIO(encode_picture(quarters(64, 48), picture)))
    assert (image.format, image.size) == (picture.upper(), (64, 48))
    assert np.abs(np.subtract(image.convert("RGB").getpixel((8, 8)), (255, 0, 0))).max() < 12


def test_a_png_is_lossless() -> None:
    photo = noise(30, 20)
    assert Image.open(io.BytesIO(encode_picture(photo, "png"))).tobytes() == photo.tobytes()


@pytest.mark.parametrize(
    ("picture", "width", "height", "fitting"),
    [
        ("jpeg", 65_500, 1, True),
        ("jpeg", 1, 65_501, False),
        ("webp", 16_383, 1, True),
        ("webp", 16_384, 1, False),
        ("webp", 4096, 4096, True),
        ("webp", 4097, 4096, False),
        ("png", 65_535, 65_535, True),
    ],
)
def test_formats_have_limits(
    picture: PictureFormat, width: int, height: int, fitting: bool
) -> None:
    assert fits(picture, width, height) is fitting


@pytest.mark.parametrize("picture", ["jpeg", "webp"])
def test_a_photo_that_does_not_fit_is_an_error_that_names_another_format(
    picture: PictureFormat,
) -> None:
    with pytest.raises(InvalidRequest, match=rf"65501 x 1 pixels .* a {picture} .* format=png"):
        encode_picture(solid(size=(65_501, 1)), picture)
