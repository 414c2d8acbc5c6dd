"""How an image file is put together, looked at before Pillow reads it.

A few bytes can make a decoder work or remember for long: a JPEG's scans each go over the whole
image, Pillow keeps every piece of metadata as an object, and makes an object of every number in
a TIFF's or EXIF's directory. All of them are counted here first.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

from service.errors import PayloadTooLarge

MAX_PARTS = 16_384
MAX_SCANS = 100  # progressive encoders write about ten
MAX_METADATA_BYTES = 4 * 1024 * 1024
SEARCH_BYTES = 256 * 1024  # other threads run between two searches, not during one

SCAN = b"\xda"
_END_OF_IMAGE = b"\xd9"
_NO_LENGTH = (b"\x01", b"\xd8")
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_GIF_EXTENSION = b"\x21"
_EXIF = b"Exif\0\0"
_METADATA: Mapping[str, frozenset[bytes]] = {
    "JPEG": frozenset([b"\xfe", *(bytes([0xE0 + number]) for number in range(16))]),
    "PNG": frozenset([b"eXIf", b"iCCP", b"iTXt", b"tEXt", b"zTXt"]),
    "WEBP": frozenset([b"EXIF", b"ICCP", b"XMP "]),
}
_EXIF_KINDS = {"JPEG": b"\xe1", "PNG": b"eXIf", "WEBP": b"EXIF"}
_ONE_OBJECT = (1, 2, 7)  # bytes, text, whatever: one object, however long


class Part(NamedTuple):
    """A segment, chunk or block: its kind, and where what it holds begins and ends."""

    kind: bytes
    start: int
    end: int


def check_structure(name: str, data: bytes) -> None:
    """Refuse a file of this format that has too many parts, scans or numbers, or metadata."""
    parts = list(islice(_PARTS.get(name, _none)(data), MAX_PARTS + 1))
    if len(parts) > MAX_PARTS:
        raise PayloadTooLarge(f"it has more than the {MAX_PARTS:,} parts allowed")
    if name == "JPEG" and sum(part.kind == SCAN for part in parts) > MAX_SCANS:
        raise PayloadTooLarge(f"it has more than the {MAX_SCANS} scans allowed")
    metadata = [part for part in parts if part.kind in _METADATA.get(name, ())]
    if sum(part.end - part.start for part in metadata) > MAX_METADATA_BYTES:
        raise PayloadTooLarge(f"it has more than the {MAX_METADATA_BYTES:,} bytes of metadata")
    for directory in _directories(name, data, metadata):
        _check_directory(directory)


def _directories(name: str, data: bytes, metadata: list[Part]) -> Iterator[bytes]:
    """Yield what begins as a TIFF file does: one, or the EXIF of another format."""
    if name == "TIFF":
        yield data
        return
    kind = _EXIF_KINDS.get(name)
    pieces = [data[part.start : part.end] for part in metadata if part.kind == kind]
    if name == "JPEG":  # Pillow joins EXIF that is longer than a segment
        pieces = [b"".join(each.removeprefix(_EXIF) for each in pieces if each.startswith(_EXIF))]
    for piece in pieces:
        yield piece.removeprefix(_EXIF).removeprefix(_EXIF)


def _check_directory(data: bytes) -> None:
    """Refuse a first directory of too many entries, or an entry of too many numbers."""
    for index, (kind, count) in enumerate(_entries(data)):
        # What is larger than the file itself is not read.
        if index >= MAX_PARTS or (kind not in _ONE_OBJECT and MAX_PARTS < count <= len(data)):
            raise PayloadTooLarge(f"its metadata have more than the {MAX_PARTS:,} numbers allowed")


def _entries(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the entries' data types and how many values each has, as far as they are there."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return
    is_big = data[2] == 43  # where Pillow looks, whatever the byte order
    head = struct.Struct(order + ("Q" if is_big else "H"))
    entry = struct.Struct(order + ("2xHQ8x" if is_big else "2xHI4x"))
    (at,) = struct.unpack_from(order + ("8xQ" if is_big else "4xI"), data)
    if at + head.size <= len(data):
        (declared,) = head.unpack_from(data, at)
        at += head.size
        for index in range(min(declared, (len(data) - at) // entry.size)):
            yield entry.unpack_from(data, at + index * entry.size)


def _none(_: bytes) -> Iterator[Part]:
    return iter(())


def _jpeg_segments(data: bytes) -> Iterator[Part]:
    """Yield the segments; what a segment holds, a thumbnail say, is skipped."""
    at = 2
    while found := _next_marker(data, at):
        at = found.end()
        kind = data[at - 1 : at]
        if kind == _END_OF_IMAGE:
            return
        length = 0 if kind in _NO_LENGTH else int.from_bytes(data[at : at + 2])
        yield Part(kind, at + 2, max(at + 2, at + length))
        at += length


def _next_marker(data: bytes, at: int) -> re.Match[bytes] | None:
    for start in range(at, len(data), SEARCH_BYTES):
        if found := _MARKER.search(data, start, start + SEARCH_BYTES + 1):
            return found
    return None


def _png_chunks(data: bytes) -> Iterator[Part]:
    at = 8
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        yield Part(data[at + 4 : at + 8], at + 8, end)
        at = end + 4


def _webp_chunks(data: bytes) -> Iterator[Part]:
    at = 12
    while at < len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        yield Part(data[at : at + 4], at + 8, end)
        at = end + (end & 1)


def _gif_blocks(data: bytes) -> Iterator[Part]:
    """Yield the blocks of the extensions before the first frame."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at : at + 1] == _GIF_EXTENSION:
        at += 2
        while length := int.from_bytes(data[at : at + 1]):
            yield Part(_GIF_EXTENSION, at + 1, at + 1 + length)
            at += 1 + length
        at += 1
        yield Part(_GIF_EXTENSION, at, at)


_PARTS: Mapping[str, Callable[[bytes], Iterator[Part]]] = {
    "JPEG": _jpeg_segments,
    "PNG": _png_chunks,
    "GIF": _gif_blocks,
    "WEBP": _webp_chunks,
}
