"""Every kind of TIFF is decoded as an independent encoder meant it, or refused by its name."""

import io
from itertools import product
from typing import NamedTuple

import numpy as np
import pytest
import tifffile

from service.errors import InvalidRequest, UnsupportedMediaType
from service.images.color import WARNING
from service.images.decode import decode
from tests.service.images.decoding import LIMITS, SQUASH, decoded
from tests.service.images.tiff_writer import write_tiff

HEIGHT, WIDTH = 6, 10
BITS = {
    "u": (1, 2, 4, 8, 12, 16, 32, 64),
    "i": (8, 16, 32, 64),
    "f": (16, 32, 64),
}
COLORS = {"white is zero": 0, "black is zero": 1, "palette": 3, "RGB": 2, "CMYK": 5, "YCbCr": 6}
CHANNELS = {0: 1, 1: 1, 2: 3, 3: 1, 5: 4, 6: 3, 8: 3}
EXTRA = {"no extra": None, "unspecified": 0, "premultiplied": 1, "alpha": 2}
READ = {
    *product((0, 1, 3), "u", (1, 2, 4, 8), (None,), (False,)),
    *product((0, 1), "u", (16,), (None,), (False,)),
    (1, "u", 12, None, False),
    *product((0, 1), "f", (32,), (None,), (False,)),
    *product((1,), "i", (16, 32), (None,), (False,)),
    *product((2,), "u", (8, 16), (None, 0, 1, 2), (False,)),
    *product((2,), "u", (8,), (None, 2), (True,)),
    *product((1,), "u", (8,), (0, 1, 2), (False,)),
    *product((3,), "u", (8,), (0, 2), (False,)),
    *product((5,), "u", (8,), (None, 0), (False,)),
    *product((5,), "u", (16,), (None,), (False,)),
    (5, "u", 8, None, True),
    (6, "u", 8, None, False),
    (8, "u", 8, None, False),
}
"""Colour, sample format, bits, extra sample and planes of the kinds that are supported."""
ONLY_LITTLE_ENDIAN = {(0, "u", 16, None, False), (1, "u", 12, None, False)}
TOLERANCES = {8: 6.0}
TOLERANCE = 2.0
"""Levels of 255: Pillow drops the low bytes of 16-bit colours before it mixes them, and sRGB ends
before the darkest colours of Lab do."""


class Kind(NamedTuple):
    color: int
    form: str
    bits: int
    extra: int | None
    in_planes: bool


KINDS = [
    Kind(color, form, bits, extra, in_planes)
    for color, form in product((*COLORS.values(), 8), BITS)
    for bits, extra, in_planes in product(BITS[form], EXTRA.values(), (False, True))
    if not (in_planes and CHANNELS[color] == 1 and extra is None)
    if not (color == 3 and (form, bits > 8) != ("u", False))
]


def samples(kind: Kind) -> np.ndarray:
    """A ramp over the whole range of the samples, [height, width, samples]."""
    shape = (HEIGHT, WIDTH, CHANNELS[kind.color] + (kind.extra is not None))
    ramp = np.linspace(0, 1, int(np.prod(shape))).reshape(shape)[..., ::-1]
    if kind.form == "f":
        return ramp.astype(f"f{kind.bits // 8}")
    low, high = (0, 2**kind.bits - 1)
    if kind.form == "i":
        low, high = -(2 ** (kind.bits - 1)), 2 ** (kind.bits - 1) - 1
    if kind.color == 8:  # keep to colours that sRGB has
        ramp[..., 1:] *= 0.1
    dtype = np.dtype(f"{kind.form}{max(8, 16 if kind.bits == 12 else kind.bits) // 8}")
    values = [min(high, max(low, int(low + share * (high - low)))) for share in ramp.flat]
    return np.array(values, dtype).reshape(shape)


def expected(kind: Kind, values: np.ndarray) -> np.ndarray:
    """The 8-bit RGB of samples by the TIFF 6.0 specification, over white."""
    levels = values.astype(np.float64)
    high = {"f": levels.max(), "u": 2.0**kind.bits - 1, "i": levels.max()}[kind.form]
    low = 0.0 if kind.form == "u" else levels.min()  # other numbers have no white: their range
    shares = (levels - low) / (high - low)
    channels, rest = shares[..., : CHANNELS[kind.color]], shares[..., CHANNELS[kind.color] :]
    match kind.color:
        case 0:
            color = np.repeat(1 - channels, 3, axis=-1)
        case 1 | 3:
            color = np.repeat(channels, 3, axis=-1)
        case 2:
            color = channels
        case 5:
            color = (1 - channels[..., :3]) * (1 - channels[..., 3:])
        case 6:
            color = ycbcr_to_rgb(values)
        case _:
            color = lab_to_rgb(values)
    if kind.extra in (1, 2):
        straight = np.divide(color, rest, out=np.zeros_like(color), where=rest > 0)
        color = (np.clip(straight, 0, 1) if kind.extra == 1 else color) * rest + (1 - rest)
    return color * 255


def ycbcr_to_rgb(values: np.ndarray) -> np.ndarray:
    y, blue, red = np.moveaxis(values.astype(np.float64), -1, 0)
    blue, red = blue - 128, red - 128
    rgb = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
    return np.clip(np.stack(rgb, -1) / 255, 0, 1)


def lab_to_rgb(values: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of D50, to sRGB; a* and b* are signed bytes."""
    lightness = values[..., 0].astype(np.float64) * 100 / 255
    a, b = (values[..., n].astype(np.int8).astype(np.float64) for n in (1, 2))
    y = (lightness + 16) / 116
    cubes = np.stack([y + a / 500, y, y - b / 200], -1)
    linear = np.where(cubes > 6 / 29, cubes**3, (cubes - 4 / 29) * 3 * (6 / 29) ** 2)
    xyz = linear * (0.96422, 1.0, 0.82521)
    matrix = np.array(
        [
            [3.1338561, -1.6168667, -0.4906146],
            [-0.9787684, 1.9161415, 0.0334540],
            [0.0719453, -0.2289914, 1.4052427],
        ]
    )
    rgb = np.clip(xyz @ matrix.T, 0, 1)
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("color", {*COLORS.values(), 8})
def test_every_kind_is_read_correctly_or_refused_by_name(color: int, order: str) -> None:
    tried = 0
    for kind in KINDS:
        if kind.color != color:
            continue
        values = samples(kind)
        data = write_tiff(
            values, kind.color, kind.form, kind.bits, kind.extra, order, kind.in_planes
        )
        is_read = kind in READ and not (order == ">" and kind in ONLY_LITTLE_ENDIAN)
        if is_read:
            difference = np.abs(decoded(data) - expected(kind, values)).max()
            assert difference <= TOLERANCES.get(color, TOLERANCE), (kind, difference)
        else:
            with pytest.raises(UnsupportedMediaType, match=f"TIFFs of {kind.bits}-bit"):
                decoded(data)
        tried += 1
    assert tried > 10


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("in_planes", [False, True])
@pytest.mark.parametrize("color", [1, 2, 5])
def test_the_writer_of_these_tests_agrees_with_an_independent_reader(
    color: int, bits: int, in_planes: bool
) -> None:
    kind = Kind(color, "u", bits, None, in_planes)
    values = samples(kind)
    for order in "<>":
        data = write_tiff(values, color, "u", bits, None, order, in_planes)
        read = tifffile.imread(io.BytesIO(data))
        planes = np.moveaxis(values, -1, 0) if in_planes and values.shape[-1] > 1 else values
        assert (read.reshape(planes.shape) == planes).all()


def test_a_kind_that_is_refused_is_described_with_what_to_do() -> None:
    values = samples(Kind(2, "f", 32, None, in_planes=False))
    with pytest.raises(
        UnsupportedMediaType,
        match=r"TIFFs of 32-bit float RGB are not supported; save it as 8-bit RGB",
    ):
        decoded(write_tiff(values, 2, "f", 32))


def test_an_unknown_compression_is_named() -> None:
    values = samples(Kind(2, "u", 8, None, in_planes=False))
    data = write_tiff(values, 2, "u", 8, tags={259: 34712})
    with pytest.raises(UnsupportedMediaType, match="compression 34712"):
        decoded(data)


def test_a_damaged_directory_is_not_called_unsupported() -> None:
    with pytest.raises(InvalidRequest):
        decoded(b"II*\0\x08\0\0\0\x01\0" + bytes(20))


def test_the_largest_sample_value_says_what_white_is() -> None:
    values = (np.arange(60) * 4095 // 59).astype(np.uint16).reshape(6, 10, 1)
    dark = decode(write_tiff(values, 1, "u", 16), SQUASH, LIMITS)
    assert np.asarray(dark).max() == 16
    assert "sBIT in a PNG, MaxSampleValue in a TIFF" in dark.info[WARNING]
    light = decode(write_tiff(values, 1, "u", 16, tags={281: 4095}), SQUASH, LIMITS)
    assert np.asarray(light).max() == 255
    assert WARNING not in light.info


def test_a_largest_sample_value_that_the_image_exceeds_is_ignored() -> None:
    values = (np.arange(60) * 65_535 // 59).astype(np.uint16).reshape(6, 10, 1)
    assert decoded(write_tiff(values, 1, "u", 16, tags={281: 4095}))[0, 5, 0] == 22
