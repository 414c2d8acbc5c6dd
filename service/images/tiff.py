"""Kinds of TIFF: which of them Pillow decodes correctly, and a name for each of the others."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

from PIL.TiffImagePlugin import COMPRESSION_INFO, ImageFileDirectory_v2

from service.errors import UnsupportedMediaType

BITS_PER_SAMPLE, COMPRESSION, PHOTOMETRIC = 258, 259, 262
SAMPLES_PER_PIXEL, PLANAR, MAX_SAMPLE_VALUE, EXTRA_SAMPLES, SAMPLE_FORMAT = 277, 284, 281, 338, 339
WHITE_IS_ZERO, GREY, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3
_COLORS = {
    WHITE_IS_ZERO: "grey (white is zero)",
    GREY: "grey",
    RGB: "RGB",
    PALETTE: "palette",
    CMYK: "CMYK",
    YCBCR: "YCbCr",
    LAB: "Lab",
}
_FORMATS = {UNSIGNED: "", SIGNED: "signed ", FLOAT: "float "}
_RIGHT = {
    (WHITE_IS_ZERO, UNSIGNED): (1, 2, 4, 8, 16),
    (WHITE_IS_ZERO, FLOAT): (32,),
    (GREY, UNSIGNED): (1, 2, 4, 8, 12, 16),
    (GREY, SIGNED): (16, 32),
    (GREY, FLOAT): (32,),
    (RGB, UNSIGNED): (8, 16),
    (PALETTE, UNSIGNED): (1, 2, 4, 8),
    (CMYK, UNSIGNED): (8, 16),
    (YCBCR, UNSIGNED): (8,),
    (LAB, UNSIGNED): (8,),
}
"""Bits per sample that Pillow decodes correctly, by colour and sample format."""
_RIGHT_IN_PLANES = {(RGB, 8), (CMYK, 8)}
PREMULTIPLIED = 1
_BITS = frozenset({1, 2, 4, 6, 8, 10, 12, 14, 16, 24, 32, 64})
"""Bits per sample that exist; any others are damage."""
ADVICE = "save it as 8-bit RGB"

Tags = Mapping[int, Any]


def check_kind(tags: Tags) -> None:
    """Raise `UnsupportedMediaType`, which names the kind, if Pillow misreads TIFFs of this kind."""
    color, bits, form = _kind(tags)
    right = (
        len(set(bits)) == 1
        and bits[0] in _RIGHT.get((color, form), ())
        and (not _is_in_planes(tags) or _is_right_in_planes(color, bits, tags))
    )
    if not right:
        raise UnsupportedMediaType(f"TIFFs of {_name(tags)} are not supported; {ADVICE}")


def check_unread(data: bytes) -> None:
    """Raise `UnsupportedMediaType` for a file that Pillow could not open because of its kind."""
    try:
        tags = _read_tags(data)
        compression, name = tags.get(COMPRESSION, 1), _name(tags)
    except Exception:  # the directory itself is damaged
        return
    if not _BITS.issuperset(_numbers(tags, BITS_PER_SAMPLE, 1)):
        return
    check_kind(tags)
    if compression not in COMPRESSION_INFO:
        raise UnsupportedMediaType(f"TIFFs with compression {compression} are not supported")
    if PHOTOMETRIC in tags and BITS_PER_SAMPLE in tags:
        raise UnsupportedMediaType(f"TIFFs of {name} are not supported; {ADVICE}")


def white_level(tags: Tags) -> int | None:
    """Return the value of white of a grey image of up to 16 bits; None if the file leaves it open.

    It is the largest value of 12 bits, or what `MaxSampleValue` says.
    """
    (bits, *_), stated = _numbers(tags, BITS_PER_SAMPLE, 1), _numbers(tags, MAX_SAMPLE_VALUE, 0)
    if bits < 16:
        return int(2**bits - 1)
    return stated[0] if stated[0] > 255 else None


def is_inverted(tags: Tags) -> bool:
    """Return whether Pillow decodes the image as its negative."""
    color, bits, _ = _kind(tags)
    return color == WHITE_IS_ZERO and bits[0] >= 16


def _kind(tags: Tags) -> tuple[int, tuple[int, ...], int]:
    """Return the colour, the bits of each sample, and the sample format."""
    bits, forms = _numbers(tags, BITS_PER_SAMPLE, 1), _numbers(tags, SAMPLE_FORMAT, UNSIGNED)
    form = forms[0] if len(set(forms)) == 1 else 0
    return tags.get(PHOTOMETRIC, WHITE_IS_ZERO), bits, form


def _is_in_planes(tags: Tags) -> bool:
    return bool(tags.get(PLANAR, 1) == 2 and tags.get(SAMPLES_PER_PIXEL, 1) > 1)


def _is_right_in_planes(color: int, bits: tuple[int, ...], tags: Tags) -> bool:
    is_premultiplied = PREMULTIPLIED in _numbers(tags, EXTRA_SAMPLES, 0)
    return (color, bits[0]) in _RIGHT_IN_PLANES and not is_premultiplied


def _numbers(tags: Tags, tag: int, default: int) -> tuple[int, ...]:
    value = tags.get(tag, default)
    return value if isinstance(value, tuple) else (value,)


def _name(tags: Tags) -> str:
    color, bits, form = _kind(tags)
    samples = f"{'/'.join(map(str, sorted(set(bits))))}-bit"
    planes = " in planes" if _is_in_planes(tags) else ""
    alpha = " with extra samples" if EXTRA_SAMPLES in tags else ""
    color_name = _COLORS.get(color, f"colour space {color}")
    return f"{samples} {_FORMATS.get(form, 'other ')}{color_name}{alpha}{planes}"


def _read_tags(data: bytes) -> Tags:
    file = BytesIO(data)
    head = file.read(16 if data[2] == 43 else 8)
    directory = ImageFileDirectory_v2(head)
    file.seek(directory.next)
    directory.load(file)
    return directory
