"""Inference requests that are as costly to parse as the bounds on their JSON allow, by name."""

import json

import numpy as np

from service.open_inference.bounded_json import MAX_JSON_BYTES, MAX_JSON_PARTS

LIMITS = {byte: limit for byte, (limit, _) in MAX_JSON_PARTS.items()}
HEAD = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [8, 224, 224, 3], "data": ['
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


TEXT = b'""'
"""In a list, it keeps the other values from being taken for the numbers of a tensor."""

COSTLY: dict[str, bytes] = {
    "fractions": filled(TEXT + b",", b"0.5,"),
    "exponents": filled(TEXT + b",", b"1e5,"),
    "empty texts": filled(b"", b'"",'),
    "one text": holding(b'"' + b"a" * (ROOM - 2) + b'"'),
    "a text of two bytes a letter": holding(b'"' + "é".encode() * (ROOM // 2 - 2) + b'"'),
    "escapes": holding(b'"' + b"\\u00e9" * min(LIMITS[b"\\"], ROOM // 6 - 2) + b'"'),
    "empty lists, and texts": filled(b"[]," * LISTS, TEXT + b","),
    "lists, and texts": filled(b"[0]," * LISTS, TEXT + b","),
    "deep lists, and texts": filled(DEEP * (LISTS // 190), TEXT + b","),
    "objects": filled(b"{}," * (LIMITS[b"{"] - 9)),
    "huge numbers": filled(TEXT + b",", b"9" * 4000 + b","),
    "texts, and a long one": holding(
        (TEXT + b",") * (LIMITS[b","] - 9) + b'"' + b"a" * (ROOM - 3 * LIMITS[b","]) + b'"'
    ),
}

NUMBERS: dict[str, bytes] = {
    "numbers of one digit": holding(b"0," * (ROOM // 2)),
    "numbers of three digits": holding(b"255," * (ROOM // 4)),
    "huge numbers": holding((b"9" * 4000 + b",") * (ROOM // 4001)),
    "numbers far apart": holding((b" " * 60_000 + b"1,") * (ROOM // 60_002)),
    "spaces": holding(b" " * (ROOM - 1) + b"1"),
    "opening brackets": holding(b"[" * ROOM),
    "deep lists": holding(b"[" * (ROOM // 2) + b"0" + b"]" * (ROOM // 2 - 1)),
    "empty lists": holding(b"[]," * (ROOM // 3)),
    "null": holding(b"null," * (ROOM // 5)),
    "eight photos, nested": holding(
        json.dumps(np.full((8, 224, 224, 3), 200).tolist()).encode()[1:-1]
    ),
    "eight photos, flat": holding(json.dumps([200] * (8 * 224 * 224 * 3)).encode()[1:-1]),
}
"""Bodies of the default limit whose data are numbers, or look like numbers."""
