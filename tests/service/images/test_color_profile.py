"""Colours with an embedded profile are converted to sRGB."""

import numpy as np
import pytest
from PIL import Image

from service.errors import PayloadTooLarge, UnsupportedMediaType
from service.images import color_profile
from service.images.decode import decode
from service.schema.preprocessing import Preprocessing
from tests.service.images.decoding import LIMITS, SQUASH
from tests.service.images.profiles import (
    SRGB,
    display_p3,
    exchanged_primaries,
    grey,
    inverted_cmyk,
)
from tests.service.photos import encode, noise, quarters, solid

MANAGED = SQUASH.model_copy(update={"color_profile": "srgb"})


def decoded(data: bytes, rule: Preprocessing = MANAGED) -> np.ndarray:
    return np.asarray(decode(data, rule, LIMITS))


def test_the_colours_of_display_p3_become_those_of_srgb() -> None:
    """By the matrices of both colour spaces; colours outside of sRGB are clipped."""
    pixels = decoded(encode(solid((200, 100, 50)), icc_profile=display_p3()))
    assert np.abs(pixels[0, 0].astype(int) - (215, 93, 31)).max() <= 2


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_format_that_holds_a_profile_is_converted(name: str) -> None:
    red = decoded(encode(solid((255, 0, 0)), name, icc_profile=exchanged_primaries()))[5, 5]
    assert red[1] > 240
    assert red[0] < 16


def test_a_contract_without_the_rule_ignores_profiles() -> None:
    data = encode(quarters(), icc_profile=exchanged_primaries())
    np.testing.assert_array_equal(decoded(data, SQUASH), np.asarray(quarters()))


def test_an_srgb_profile_changes_no_pixel() -> None:
    picture = noise(30, 20)
    np.testing.assert_array_equal(decoded(encode(picture, icc_profile=SRGB)), np.asarray(picture))


@pytest.mark.parametrize("profile", [b"no profile", b"", SRGB[:200], grey(2.2), inverted_cmyk()])
def test_a_profile_that_does_not_fit_is_ignored(profile: bytes) -> None:
    data = encode(quarters(), icc_profile=profile)
    np.testing.assert_array_equal(decoded(data), np.asarray(quarters()))


def test_a_profile_of_grey_is_applied_with_and_without_transparency() -> None:
    picture = Image.new("L", (8, 8), 100)
    plain = decoded(encode(picture, icc_profile=grey(1.0)))[0, 0]
    assert (plain > 150).all()
    transparent = picture.convert("LA")
    transparent.putalpha(255)
    assert (decoded(encode(transparent, icc_profile=grey(1.0)))[0, 0] == plain).all()


def test_a_profile_of_cmyk_is_applied() -> None:
    for inks, color in ((0, 0), (255, 255)):
        picture = Image.new("CMYK", (16, 16), (inks,) * 4)
        found = decoded(encode(picture, "TIFF", icc_profile=inverted_cmyk()))[8, 8]
        assert np.abs(found.astype(int) - color).max() <= 2


def test_the_transparency_and_the_palette_of_an_image_are_kept() -> None:
    picture = solid((255, 0, 0, 255)[:3]).convert("RGBA")
    picture.putalpha(0)
    assert (decoded(encode(picture, icc_profile=exchanged_primaries())) == 255).all()
    palette = quarters().quantize(4)
    found = decoded(encode(palette, icc_profile=exchanged_primaries()))
    assert found[2, 2, 1] > 240
    assert found[2, -2, 0] > 240


def test_a_profile_is_read_once() -> None:
    color_profile._transform.cache_clear()
    for _ in range(3):
        decoded(encode(solid(), icc_profile=display_p3()))
    assert color_profile._transform.cache_info().misses == 1


def test_a_profile_that_is_too_large_or_computes_anything_is_refused() -> None:
    large = SRGB + bytes(color_profile.MAX_PROFILE_BYTES)
    with pytest.raises(PayloadTooLarge, match="colour profile has more than the 4,194,304 bytes"):
        decoded(encode(solid(), "TIFF", icc_profile=large))
    with pytest.raises(UnsupportedMediaType, match="processing elements"):
        decoded(encode(solid(), icc_profile=SRGB + b"mpet"))
