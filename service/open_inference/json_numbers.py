"""Read the numbers of a JSON tensor in pieces: parsed at once, they would block all other threads.

Clients send megabytes of numbers in the `data` of an input. `cut_numbers` takes them out of the
JSON, so that what is left is small, and `array_from_numbers` turns them into a tensor.
"""

import re
import secrets
from collections.abc import Iterator, Sequence
from math import prod

import numpy as np
import numpy.typing as npt
from pydantic_core import from_json

from service.errors import InvalidRequest

CUT = [secrets.token_hex(16)]
"""Stands for the numbers that were cut out. Clients cannot guess it."""
PIECE_BYTES = 64 * 1024
MAX_NAMES = 1024
"""Number of times that `"data"` is looked up."""

_NAME = b'"data"'
_LIST_FOLLOWS = re.compile(rb"\s{0,64}:\s{0,64}(?=\[)")
_END_FOLLOWS = re.compile(rb'\s{0,64}(?:\}|,\s{0,64}"(?:[^"\\]|\\.){0,256}"\s{0,64}:)')
_EMPTY = re.compile(rb"\[\s{0,64}\]")
_NESTED = re.compile(rb"\[\s*\[")
_CUT_TEXT = b'["%b"]' % CUT[0].encode()
_WHITESPACE = b" \t\r\n"
_N = bytes(byte if byte in b"[]," else ord("N") for byte in range(256))
_WITHOUT_BRACKETS = bytes.maketrans(b"[]", b"  ")


def cut_numbers(text: bytes) -> tuple[bytes, bytes]:
    """Return JSON with `CUT` in place of its first `data` that may be numbers, and the numbers.

    An empty list, and one that contains a text or an object, is not cut out.
    """
    start = _start_of_data(text)
    if start is None or _EMPTY.match(text, start):
        return text, b""
    stops = [at for mark in (b'"', b"}") if (at := text.find(mark, start)) >= 0]
    end = text.rfind(b"]", start, min(stops, default=start)) + 1
    if not end or not _END_FOLLOWS.match(text, end):
        return text, b""
    return b"".join((text[:start], _CUT_TEXT, text[end:])), text[start:end]


def _start_of_data(text: bytes) -> int | None:
    """Return the start of the first list whose name is `data`."""
    is_in_text, checked, at = False, 0, text.find(_NAME)
    for _ in range(MAX_NAMES):
        if at < 0:
            break
        is_in_text ^= _quotes(text[checked:at]) % 2 == 1
        found = _LIST_FOLLOWS.match(text, at + len(_NAME))
        if found and not is_in_text and text[at - 1 : at] != b"\\":
            return found.end()
        checked, at = at, text.find(_NAME, at + 1)
    return None


def _quotes(text: bytes) -> int:
    """Count the quotation marks that are not escaped."""
    text = text.replace(rb"\\", b"")
    return text.count(b'"') - text.count(rb"\"")


def array_from_numbers(text: bytes, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return a UINT8 tensor from a JSON list of numbers, flat or nested like the shape.

    The cost depends only on the shape: reading ends at the first piece with too many numbers.
    """
    count, values, structure = prod(shape), bytearray(), bytearray()
    for piece in _pieces(text):
        values += _values(piece)
        structure += _brackets_and_commas(piece)
        if len(values) > count:
            break
    wanted = shape if _NESTED.match(text) else [count]
    if len(values) != count or structure != _structure(wanted):
        raise _wrongly_shaped(shape)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut a text after commas."""
    start = 0
    while len(text) - start > PIECE_BYTES:
        comma = text.rfind(b",", start, start + PIECE_BYTES)
        if comma < 0:
            raise not_numbers()
        yield text[start : comma + 1]
        start = comma + 1
    yield text[start:]


def _values(piece: bytes) -> bytes:
    numbers = piece.translate(_WITHOUT_BRACKETS).removesuffix(b",")
    try:
        values = from_json(b"[" + numbers + b"]")
        if set(map(type, values)) <= {int}:  # a bool is an int too
            return bytes(values)
    except ValueError:
        pass
    raise not_numbers()


def _brackets_and_commas(piece: bytes) -> bytes:
    """Return the structure of a list without its numbers, which must be between the brackets."""
    structure = piece.translate(_N, _WHITESPACE)
    if b"]N" in structure or b"N[" in structure:
        raise not_numbers()
    return structure.translate(None, b"N")


def _structure(shape: Sequence[int]) -> bytes:
    """Return the brackets and commas of lists that are nested like this shape."""
    structure = b""
    for side in reversed(shape):
        structure = b"[" + ((structure + b",") * side)[:-1] + b"]"
    return structure


def _wrongly_shaped(shape: Sequence[int]) -> InvalidRequest:
    return InvalidRequest(
        f"The tensor's data must be flat or have the shape {list(shape)}; a flat list has "
        f"{prod(shape):,} numbers."
    )


def not_numbers() -> InvalidRequest:
    """Return the error about data that are not numbers of a UINT8 tensor."""
    return InvalidRequest("The data of a UINT8 tensor must be whole numbers from 0 to 255.")
