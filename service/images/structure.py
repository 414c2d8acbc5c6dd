"""The structure of an image file, checked before Pillow reads it.

A few bytes can keep a decoder busy or make it allocate a lot: each scan of a JPEG covers the whole
image, and Pillow keeps every piece of metadata, and every number in a TIFF or EXIF directory, as an
object. All of these are counted here first. Metadata that do not decide on the pixels, such as
comments and XMP, are not counted, because they are skipped unread.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import NamedTuple

from service.errors import PayloadTooLarge

MAX_PARTS = 16_384
MAX_SCANS = 100  # progressive encoders write about ten
MAX_SIDE = 65_535  # the memory of resize weights grows with the side, not with the area
MAX_METADATA_BYTES = 4 * 1024 * 1024
SEARCH_BYTES = 256 * 1024  # other threads can run between two searches, but not during one

Part = tuple[bytes, int, int]
"""A segment, chunk or block: its kind, and where its contents start and end."""

SCAN = b"\xda"
END_OF_IMAGE = b"\xd9"
_NO_LENGTH = (b"\x01", b"\xd8", b"\xd9")
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_GIF_EXTENSION = b"\x21"
_EXIF = b"Exif\0\0"
_ONE_OBJECT = (1, 2, 7)  # bytes, text and undefined data: one object each, however long


class _Layout(NamedTuple):
    """The function that lists the parts of a format, and the kinds of parts that hold metadata."""

    parts: Callable[[bytes], list[Part]]
    read: Mapping[bytes, bytes] = {}
    """Kinds that decide on the pixels, and the beginning of their contents."""
    skipped: frozenset[bytes] = frozenset()
    """Kinds that do not, unless they begin as `read` says."""
    exif: bytes = b""
    joins_exif: bool = False  # Pillow joins EXIF that is longer than a segment


def check_structure(name: str, data: bytes) -> list[Part]:
    """Return the parts of a file, none for formats without; reject a file with too many of them.

    Scans, bytes of metadata and numbers are limited as well.
    """
    if name == "TIFF":
        _check_directory(data)
    layout = _LAYOUTS.get(name)
    if layout is None:
        return []
    parts = layout.parts(data)
    if len(parts) > MAX_PARTS:
        raise PayloadTooLarge(f"it has more than the {MAX_PARTS:,} parts allowed")
    scans, metadata_bytes = 0, 0
    exif = list[Part]()
    for part in parts:
        kind, start, end = part
        if kind == SCAN:
            scans += 1
        elif kind in layout.read and data.startswith(layout.read[kind], start):
            metadata_bytes += end - start
            if kind == layout.exif:
                exif.append(part)
    if scans > MAX_SCANS:
        raise PayloadTooLarge(f"it has more than the {MAX_SCANS} scans allowed")
    if metadata_bytes > MAX_METADATA_BYTES:
        raise PayloadTooLarge(f"it has more than the {MAX_METADATA_BYTES:,} bytes of metadata")
    if exif:
        _check_exif(layout, data, exif)
    return parts


def skipped_parts(name: str, data: bytes, parts: Sequence[Part]) -> set[Part]:
    """Return the parts with metadata that do not decide on the pixels."""
    layout, skipped = _LAYOUTS[name], set[Part]()
    for part in parts:
        kind, start, _ = part
        is_read = kind in layout.read and data.startswith(layout.read[kind], start)
        if kind in layout.skipped and not is_read:
            skipped.add(part)
    return skipped


def skip_metadata(png: bytes, parts: Sequence[Part]) -> bytes:
    """Return a PNG without the chunks that do not decide on the pixels."""
    skipped = sorted(skipped_parts("PNG", png, parts), key=itemgetter(1))
    ends = [0, *(end + 4 for _, _, end in skipped)]
    starts = [*(start - 8 for _, start, _ in skipped), len(png)]
    return (
        b"".join(png[end:start] for end, start in zip(ends, starts, strict=True))
        if skipped
        else png
    )


def significant_bits(png: bytes) -> int | None:
    """Return the significant bits of the first channel of a PNG, if it states them (`sBIT`)."""
    for kind, start, end in _png_chunks(png):
        if kind == b"sBIT" and start < min(end, len(png)):
            return png[start]
    return None


def _check_exif(layout: _Layout, data: bytes, parts: Sequence[Part]) -> None:
    pieces = [data[start:end] for _, start, end in parts]
    if layout.joins_exif:
        pieces = [b"".join(each.removeprefix(_EXIF) for each in pieces if each.startswith(_EXIF))]
    for piece in pieces:
        _check_directory(piece.removeprefix(_EXIF).removeprefix(_EXIF))


def _check_directory(data: bytes) -> None:
    """Reject a first directory with too many entries, or an entry with too many numbers."""
    for index, (kind, count) in enumerate(_entries(data)):
        # Pillow does not read a value that is larger than the file itself.
        if index >= MAX_PARTS or (kind not in _ONE_OBJECT and MAX_PARTS < count <= len(data)):
            raise PayloadTooLarge(f"its metadata have more than the {MAX_PARTS:,} numbers allowed")


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield each complete entry's data type and number of values."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    is_big = data[2] == 43  # Pillow reads this byte regardless of the byte order
    head = struct.Struct(order + ("Q" if is_big else "H"))
    entry = struct.Struct(order + ("2xHQ8x" if is_big else "2xHI4x"))
    (at,) = struct.unpack_from(order + ("8xQ" if is_big else "4xI"), data)
    if at + head.size <= len(data):
        (declared,) = head.unpack_from(data, at)
        at += head.size
        for index in range(min(declared, (len(data) - at) // entry.size)):
            yield entry.unpack_from(data, at + index * entry.size)


def _jpeg_segments(data: bytes) -> list[Part]:
    """List the segments; skip their contents, such as a thumbnail."""
    parts, at = list[Part](), 2
    while at < len(data) and len(parts) <= MAX_PARTS:
        found = _MARKER.search(data, at, at + SEARCH_BYTES + 1)
        if found is None:
            at += SEARCH_BYTES
            continue
        at = found.end()
        kind = data[at - 1 : at]
        length = 0 if kind in _NO_LENGTH else int.from_bytes(data[at : at + 2])
        parts.append((kind, at + 2, max(at + 2, at + length)))
        if kind == END_OF_IMAGE:
            break
        at += length
    return parts


def _png_chunks(data: bytes) -> list[Part]:
    parts, at = list[Part](), 8
    while at < len(data) and len(parts) <= MAX_PARTS:
        end = at + 8 + int.from_bytes(data[at : at + 4])
        parts.append((data[at + 4 : at + 8], at + 8, end))
        at = end + 4
    return parts


def _webp_chunks(data: bytes) -> list[Part]:
    parts, at = list[Part](), 12
    while at < len(data) and len(parts) <= MAX_PARTS:
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        parts.append((data[at : at + 4], at + 8, end))
        at = end + (end & 1)
    return parts


def _gif_blocks(data: bytes) -> list[Part]:
    """List the blocks of the extensions before the first frame."""
    flags = data[10] if len(data) > 10 else 0
    parts, at = list[Part](), 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at : at + 1] == _GIF_EXTENSION and len(parts) <= MAX_PARTS:
        at += 2
        while (length := int.from_bytes(data[at : at + 1])) and len(parts) <= MAX_PARTS:
            parts.append((_GIF_EXTENSION, at + 1, at + 1 + length))
            at += 1 + length
        at += 1
        parts.append((_GIF_EXTENSION, at, at))
    return parts


_LAYOUTS: Mapping[str, _Layout] = {
    "JPEG": _Layout(
        _jpeg_segments,
        {b"\xe0": b"", b"\xe1": b"Exif\0", b"\xe2": b"ICC_PROFILE\0", b"\xee": b"Adobe"},
        frozenset([b"\xfe", *(bytes([0xE0 + number]) for number in range(16))]),
        b"\xe1",
        joins_exif=True,
    ),
    "PNG": _Layout(
        _png_chunks,
        {b"eXIf": b"", b"iCCP": b""},
        frozenset([b"iTXt", b"tEXt", b"zTXt"]),
        b"eXIf",
    ),
    "GIF": _Layout(_gif_blocks),
    "WEBP": _Layout(_webp_chunks, {b"EXIF": b"", b"ICCP": b""}, exif=b"EXIF"),
}
