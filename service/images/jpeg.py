"""JPEG files as the decoder gets them, so that it reports missing rows and reads no metadata.

libjpeg fills what is missing before the marker of the end with grey, and only warns, which Pillow
does not pass on. Without that marker it stops instead, and Pillow reports a truncated file.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from service.errors import InvalidRequest, UnsupportedMediaType
from service.images.structure import END_OF_IMAGE, SCAN, Part, skipped_parts

_BASELINE = (b"\xc0", b"\xc1")
_ARITHMETIC = b"\xc9"
_PROGRESSIVE = (b"\xc2", b"\xca")
_FRAMES = {
    **dict.fromkeys([*_BASELINE, _ARITHMETIC, *_PROGRESSIVE], ""),
    **dict.fromkeys([b"\xc3", b"\xcb"], "lossless"),
    **dict.fromkeys([b"\xc5", b"\xc6", b"\xc7", b"\xcd", b"\xce", b"\xcf"], "hierarchical"),
}
"""Kinds of JPEG by the marker of the frame; those with a name are not supported."""
_BEFORE_CONTENTS = 4  # a marker and the length of its segment
_ONES = b"\xff\0" * 8
"""The bits that the decoder reads ahead. No code consists of ones, so they complete no block."""
_END = b"\xff\xd9"


class _Frame(NamedTuple):
    marker: bytes
    components: bytes
    """The identifier of each component."""


def decodable(data: bytes, parts: Sequence[Part]) -> bytes:
    """Return the file as the decoder needs it; a file that is no JPEG is returned as it is.

    Raises:
        UnsupportedMediaType: the kind of JPEG is not supported.
        InvalidRequest: scans are missing.
    """
    frame, scans, last = _frame(data, parts), list[Part](), 0
    for index, part in enumerate(parts):
        if part[0] == SCAN:
            scans.append(part)
            last = index
    if frame is None or not scans:
        return data
    skipped = skipped_parts("JPEG", data, parts)
    pieces, following = [data[:2]], [*parts[1 : last + 2], None][: last + 1]
    for part, after in zip(parts, following, strict=False):
        if part not in skipped:
            end = len(data) if after is None else after[1] - _BEFORE_CONTENTS
            pieces.append(data[part[1] - _BEFORE_CONTENTS : end])
    return b"".join([*pieces, _tail(data, frame, scans, parts)])


def _tail(data: bytes, frame: _Frame, scans: Sequence[Part], parts: Sequence[Part]) -> bytes:
    """Return what follows the last scan."""
    one_scan = len(scans) == 1 and data[scans[0][1]] == len(frame.components)
    if one_scan and frame.marker in _BASELINE:
        return _ONES
    if parts[-1][0] != END_OF_IMAGE or not _has_all_scans(data, frame, scans):
        raise InvalidRequest("it cannot be decoded: the file is truncated")
    return _END


def _has_all_scans(data: bytes, frame: _Frame, scans: Sequence[Part]) -> bool:
    """Return whether the scans bring every component, and in a progressive file its last bit.

    In a scan's header (ITU-T T.81, B.2.3), the last three bytes are the first and the last
    coefficient and the positions of the bits before and after the scan.
    """
    exact: Mapping[int, set[int]] = {component: set() for component in frame.components}
    for _, start, _ in scans:
        count = data[start]
        first, last, bits = data[start + 1 + 2 * count : start + 4 + 2 * count]
        if frame.marker in _PROGRESSIVE and bits & 15:
            continue
        for component in data[start + 1 : start + 1 + 2 * count : 2]:
            if component in exact:
                exact[component].update(range(first, last + 1))
    wanted = set(range(64)) if frame.marker in _PROGRESSIVE else {0}
    return all(found >= wanted for found in exact.values())


def _frame(data: bytes, parts: Sequence[Part]) -> _Frame | None:
    """Read the header of the frame (ITU-T T.81, B.2.2)."""
    found = None
    for part in parts:
        if part[0] in _FRAMES:
            found = part
            break
    if found is None or found[2] > len(data) or found[2] - found[1] < 6:
        return None
    kind, start, end = found
    if _FRAMES[kind]:
        raise UnsupportedMediaType(f"{_FRAMES[kind]} JPEGs are not supported")
    precision, count = data[start], data[start + 5]
    if precision != 8:
        raise UnsupportedMediaType(f"JPEGs of {precision} bits per sample are not supported")
    if count not in (1, 3, 4):
        raise UnsupportedMediaType(f"JPEGs of {count} components are not supported")
    return _Frame(kind, data[start + 6 : end : 3])
