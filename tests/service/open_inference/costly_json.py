"""Inference requests that are as costly to parse as the bounds on their JSON allow, by name."""

import json

import numpy as np

from service.open_inference.bounded_json import MAX_JSON_BYTES, MAX_JSON_PARTS

LIMITS = {byte: limit for byte, (limit, _) in MAX_JSON_PARTS.items()}
HEAD = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": ['
TAIL = b"]}]}"
ROOM = MAX_JSON_BYTES - len(HEAD + TAIL)
LISTS = LIMITS[b"["] - 9
DEEP = b"[" * 190 + b"]" * 190 + b","


def holding(parts: bytes) -> bytes:
    """A request whose input has these data."""
    return HEAD + parts.rstrip(b",") + TAIL


def filled(parts: bytes, filler: bytes = b"0,") -> bytes:
    """The same with as many fillers as the bounds allow."""
    values = LIMITS[b","] - parts.count(b",") - 9
    return holding(parts + filler * min(values, (ROOM - len(parts)) // len(filler)))


COSTLY: dict[str, bytes] = {
    "numbers of one digit": filled(b""),
    "numbers of three digits": filled(b"", b"255,"),
    "fractions": filled(b"", b"0.5,"),
    "exponents": filled(b"", b"1e5,"),
    "empty texts": filled(b"", b'"",'),
    "one text": holding(b'"' + b"a" * (ROOM - 2) + b'"'),
    "escapes": holding(b'"' + b"\\u00e9" * (ROOM // 6 - 2) + b'"'),
    "empty lists, and numbers": filled(b"[]," * LISTS),
    "lists, and numbers": filled(b"[0]," * LISTS),
    "deep lists, and numbers": filled(DEEP * (LISTS // 190)),
    "objects": filled(b"{}," * (LIMITS[b"{"] - 9)),
    "huge numbers": filled(b"", b"9" * 4000 + b","),
    "a common photo, nested": holding(json.dumps(np.full((352, 480, 3), 200).tolist()).encode()),
}
