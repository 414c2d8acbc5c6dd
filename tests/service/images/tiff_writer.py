"""Uncompressed TIFFs of any kind, by the specification (TIFF 6.0)."""

import struct
from collections.abc import Mapping

import numpy as np

FORMATS = {"u": 1, "i": 2, "f": 3}


def write_tiff(  # noqa: PLR0917  # what a kind of TIFF consists of, in the order of the tests
    values: np.ndarray,
    color: int,
    form: str,
    bits: int,
    extra: int | None = None,
    order: str = "<",
    in_planes: bool = False,
    tags: Mapping[int, int] | None = None,
) -> bytes:
    """Write samples [height, width, samples] in one strip, or in one for each plane."""
    height, width, count = values.shape
    planes = np.moveaxis(values, -1, 0)[..., None] if in_planes else values[None]
    strips = [_packed(plane.reshape(height, -1), bits, order) for plane in planes]
    entries: dict[int, tuple[int, list[int]]] = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [bits] * count),
        259: (3, [1]),
        262: (3, [color]),
        277: (3, [count]),
        278: (4, [height]),
        279: (4, [len(strip) for strip in strips]),
        284: (3, [2 if in_planes else 1]),
        339: (3, [FORMATS[form]] * count),
    }
    if color == 3:
        ramp = [round(n * 65_535 / (2**bits - 1)) for n in range(2**bits)]
        entries[320] = (3, ramp * 3)
    if color == 6:
        entries[530] = (3, [1, 1])
    if extra is not None:
        entries[338] = (3, [extra])
    for tag, value in (tags or {}).items():
        entries[tag] = (3, [value])
    at = 8 + 2 + 12 * (len(entries) + 1) + 4
    more, starts = b"", []
    for strip in strips:
        starts.append(at + len(more))
        more += strip + b"\0" * (len(strip) % 2)
    entries[273] = (4, starts)
    directory = struct.pack(order + "H", len(entries))
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{'HI'[kind - 3]}", *numbers)
        if len(packed) > 4:
            packed, more = struct.pack(order + "I", at + len(more)), more + packed
        directory += struct.pack(order + "HHI", tag, kind, len(numbers)) + packed.ljust(4, b"\0")
    mark = {"<": b"II", ">": b"MM"}[order]
    return mark + struct.pack(order + "HI", 42, 8) + directory + bytes(4) + more


def _packed(rows: np.ndarray, bits: int, order: str) -> bytes:
    if bits >= 8 and bits != 12:
        return rows.astype(rows.dtype.newbyteorder(order)).tobytes()
    shifts = np.arange(bits - 1, -1, -1)
    each = (rows[..., None].astype(np.uint32) >> shifts.astype(np.uint32)) & 1
    return np.packbits(each.reshape(len(rows), -1).astype(np.uint8), axis=1).tobytes()
