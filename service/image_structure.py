"""How an image file is put together, looked at before Pillow reads it.

A few bytes can make a decoder work or remember for long: a JPEG's scans each go over the whole
image, and Pillow keeps every piece of metadata as an object. Both are counted here first.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from itertools import islice

from service.errors import PayloadTooLarge

MAX_PARTS = 16_384
MAX_SCANS = 100  # progressive encoders write about ten

SCAN = b"\xda"
_END_OF_IMAGE = b"\xd9"
_NO_LENGTH = (b"\x01", b"\xd8")
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)
_GIF_EXTENSION = b"\x21"


def check_structure(name: str, data: bytes) -> None:
    """Refuse a file of this format that has too many parts, or scans."""
    parts = _PARTS.get(name, _none)
    kinds = list(islice(parts(data), MAX_PARTS + 1))
    if len(kinds) > MAX_PARTS:
        raise PayloadTooLarge(f"it has more than the {MAX_PARTS:,} parts allowed")
    if name == "JPEG" and kinds.count(SCAN) > MAX_SCANS:
        raise PayloadTooLarge(f"it has more than the {MAX_SCANS} scans allowed")


def _none(_: bytes) -> Iterator[bytes]:
    return iter(())


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Yield the kinds of the segments; what a segment holds, a thumbnail say, is skipped."""
    at = 2
    while found := _MARKER.search(data, at):
        at = found.end()
        kind = data[at - 1 : at]
        if kind == _END_OF_IMAGE:
            return
        yield kind
        if kind not in _NO_LENGTH:
            at += int.from_bytes(data[at : at + 2])


def _png_chunks(data: bytes) -> Iterator[bytes]:
    at = 8
    while at < len(data):
        yield data[at + 4 : at + 8]
        at += 12 + int.from_bytes(data[at : at + 4])


def _gif_blocks(data: bytes) -> Iterator[bytes]:
    """Yield the blocks of the extensions before the first frame."""
    flags = data[10] if len(data) > 10 else 0
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while data[at : at + 1] == _GIF_EXTENSION:
        at += 2
        while length := int.from_bytes(data[at : at + 1]):
            yield _GIF_EXTENSION
            at += 1 + length
        at += 1
        yield _GIF_EXTENSION


_PARTS: Mapping[str, Callable[[bytes], Iterator[bytes]]] = {
    "JPEG": _jpeg_segments,
    "PNG": _png_chunks,
    "GIF": _gif_blocks,
}
