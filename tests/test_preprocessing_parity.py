"""Training, certificate and service must see the same pixels: two implementations, one rule."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash, open_image
from service.images.decode import ImageLimits
from service.images.photo import prepare
from service.schema.preprocessing import Preprocessing as ServedPreprocessing
from tests.service.images.profiles import SRGB, display_p3, grey, inverted_cmyk
from tests.service.images.tiff_writer import write_tiff
from tests.service.photos import encode, noise, png_chunk, quarters

LIMITS = ImageLimits(max_pixels=64 * 1024 * 1024)
RESIZES = {
    "squash": Squash(64, 96),
    "crop": Crop(72, 64, 64),
    "buckets": Buckets.around(64),
}
SIZES = [(64, 64), (96, 64), (97, 61), (300, 50), (33, 700), (640, 480)]


def _significant(png: bytes, bits: int) -> bytes:
    return png[:33] + png_chunk(b"sBIT", bytes([bits])) + png[33:]


def _grey_16(bits: int = 16) -> bytes:
    values = np.linspace(0, 2**bits - 1, 80 * 60).reshape(60, 80).astype(np.uint16)
    return encode(Image.fromarray(values))


def _grey_12(tags: dict[int, int] | None = None) -> bytes:
    values = np.linspace(0, 4095, 80 * 60).reshape(60, 80, 1).astype(np.uint16)
    return write_tiff(values, 1, "u", 16, tags=tags)


def _white_is_zero() -> bytes:
    values = np.linspace(0, 65_535, 80 * 60).reshape(60, 80, 1).astype(np.uint16)
    return write_tiff(values, 0, "u", 16)


def _real_numbers() -> bytes:
    values = np.random.default_rng(1).normal(5, 3, (60, 80)).astype(np.float32)
    return encode(Image.fromarray(values), "TIFF")


def _transparent() -> bytes:
    image = quarters(80, 60).convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return encode(image)


def _transparent_palette() -> bytes:
    return encode(quarters(80, 60).quantize(4), transparency=1)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(quarters(80, 60), "JPEG", exif=exif, quality=95)


def _large(mode: str = "RGB", size: tuple[int, int] = (801, 607), orientation: int = 1) -> bytes:
    """A JPEG that is decoded at a reduced scale."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = noise(40, 30).resize(size, Image.Resampling.BICUBIC).convert(mode)
    return encode(picture, "JPEG", exif=exif, quality=90)


LARGE = {
    **{
        f"large, exif {orientation}": _large(orientation=orientation)
        for orientation in (1, 3, 6, 7)
    },
    "large CMYK": _large("CMYK"),
    "large grey": _large("L"),
    "large, high": _large(size=(413, 1203)),
    "large strip": _large(size=(4800, 280)),
    "large progressive": encode(noise(40, 30).resize((640, 480)), "JPEG", progressive=True),
}
FILES = {
    **LARGE,
    **{f"{width}x{height}": encode(noise(width, height)) for width, height in SIZES},
    **{f"exif {orientation}": _exif(orientation) for orientation in range(1, 9)},
    "16-bit": _grey_16(),
    "12 bits in 16": _grey_12(),
    "12 bits in 16, stated": _grey_12({281: 4095}),
    "12 bits, stated in a PNG": _significant(_grey_16(12), 12),
    "white is zero": _white_is_zero(),
    "Display P3": encode(noise(80, 60), "JPEG", icc_profile=display_p3()),
    "sRGB profile": encode(noise(80, 60), "JPEG", icc_profile=SRGB),
    "profile of grey": encode(quarters(80, 60).convert("LA"), icc_profile=grey(1.0)),
    "profile of CMYK": encode(noise(8, 6).convert("CMYK"), "JPEG", icc_profile=inverted_cmyk()),
    "profile and palette": encode(quarters(80, 60).quantize(4), icc_profile=display_p3()),
    "real numbers": _real_numbers(),
    "transparent": _transparent(),
    "transparent palette": _transparent_palette(),
    "bilevel": encode(quarters(80, 60).convert("1")),
    "grey": encode(quarters(80, 60).convert("L")),
    "CMYK": encode(noise(80, 60).convert("CMYK"), "JPEG"),
    "WebP": encode(noise(80, 60), "WEBP"),
    "GIF": encode(quarters(80, 60), "GIF"),
    "BMP": encode(noise(80, 60), "BMP"),
}


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_service_and_export_see_the_same_pixels(
    name: str, resize: str, resample: str, tmp_path
) -> None:
    rule = Preprocessing(RESIZES[resize], filter=resample, fill=(10, 200, 30))
    contract = ServedPreprocessing.model_validate(json.loads(json.dumps(rule.as_dict())))
    path = tmp_path / "image"
    path.write_bytes(FILES[name])
    exported = rule.read(path)
    served = prepare(FILES[name], contract, LIMITS).pixels
    np.testing.assert_array_equal(served, exported)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("name", LARGE)
def test_a_jpeg_decoded_at_a_scale_looks_like_the_whole(name: str, resize: str, tmp_path) -> None:
    rule = Preprocessing(RESIZES[resize])
    (tmp_path / "image").write_bytes(LARGE[name])
    whole = rule(open_image(tmp_path / "image"))
    scaled = rule.read(tmp_path / "image")
    assert scaled.shape == whole.shape
    if name == "large strip" and resize == "crop":  # it is cut before it is resized
        np.testing.assert_array_equal(scaled, whole)
    else:
        assert 0 < np.abs(scaled.astype(int) - whole).mean() < 2


@pytest.mark.parametrize("name", ["640x480", "WebP", "exif 6", *LARGE])
def test_a_contract_without_the_rule_decodes_in_full(name: str, tmp_path) -> None:
    rule = Preprocessing(RESIZES["buckets"], jpeg_reducing_gap=None)
    (tmp_path / "image").write_bytes(FILES[name])
    whole = rule(open_image(tmp_path / "image"))
    contract = ServedPreprocessing.model_validate(json.loads(json.dumps(rule.as_dict())))
    np.testing.assert_array_equal(rule.read(tmp_path / "image"), whole)
    np.testing.assert_array_equal(prepare(FILES[name], contract, LIMITS).pixels, whole)


def test_the_comparison_sees_a_different_rule() -> None:
    photo = io.BytesIO(FILES["640x480"])
    rule = Preprocessing(RESIZES["squash"], filter="bicubic")
    contract = ServedPreprocessing.model_validate(
        Preprocessing(RESIZES["squash"], filter="bilinear").as_dict()
    )
    served = prepare(FILES["640x480"], contract, LIMITS).pixels
    assert (served != rule(Image.open(photo))).any()
