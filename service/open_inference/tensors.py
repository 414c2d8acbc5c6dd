"""Read and write the tensors of the Open Inference Protocol, as raw bytes or JSON."""

import struct
from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from service.errors import InvalidRequest
from service.runtime.arrays import Array
from service.schema.json import encode
from service.schema.vocabulary import Datatype

_LENGTH = struct.Struct("<I")
_PIECE_ELEMENTS = 64 * 1024

_DTYPES: dict[Datatype, str] = {
    Datatype.BOOL: "|b1",
    Datatype.UINT8: "|u1",
    Datatype.UINT16: "<u2",
    Datatype.UINT32: "<u4",
    Datatype.UINT64: "<u8",
    Datatype.INT8: "|i1",
    Datatype.INT16: "<i2",
    Datatype.INT32: "<i4",
    Datatype.INT64: "<i8",
    Datatype.FP16: "<f2",
    Datatype.FP32: "<f4",
    Datatype.FP64: "<f8",
}


def zeros(shape: Sequence[int], datatype: Datatype) -> Array:
    """Return a tensor of zeros."""
    return np.zeros(shape, _DTYPES[datatype])


def array_from_bytes(data: memoryview, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return the bytes of a UINT8 tensor as an array of this shape, without a copy."""
    if len(data) != prod(shape):
        raise InvalidRequest(
            f"A UINT8 tensor of shape {list(shape)} has {prod(shape):,} bytes, not {len(data):,}."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def split_elements(data: memoryview, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor; each follows its length, 4 bytes little-endian.

    Raises `InvalidRequest` unless there are exactly `count`.
    """
    elements, offset = list[bytes](), 0
    while offset < len(data) and len(elements) < count:
        start = offset + _LENGTH.size
        if start > len(data):
            break
        offset = start + int(_LENGTH.unpack_from(data, offset)[0])
        if offset <= len(data):
            elements.append(bytes(data[start:offset]))
    if offset != len(data) or len(elements) != count:
        raise InvalidRequest(
            f"The BYTES tensor must hold exactly {count} elements, each after its length in "
            "4 bytes."
        )
    return elements


def join_elements(elements: Sequence[bytes]) -> bytes:
    """Return the bytes of a BYTES tensor: each element after its length, 4 bytes little-endian."""
    return b"".join(part for each in elements for part in (_LENGTH.pack(len(each)), each))


def array_to_bytes(array: Array, datatype: Datatype) -> bytes:
    """Return the bytes of a tensor, row-major and little-endian."""
    return array.astype(_DTYPES[datatype], copy=False).tobytes()


def array_to_json(array: Array, datatype: Datatype) -> bytes:
    """Return the elements of a tensor as a JSON list, flat and row-major; FP16 has no JSON form.

    They are written in pieces, because no other thread runs while one is written.
    """
    if datatype is Datatype.FP16:
        raise InvalidRequest("An FP16 output can only be sent as binary data.")
    flat = array.ravel()
    pieces = (flat[at : at + _PIECE_ELEMENTS] for at in range(0, flat.size, _PIECE_ELEMENTS))
    texts = (encode(piece, default=np.ndarray.tolist)[1:-1] for piece in pieces)
    return b"[" + b",".join(texts) + b"]"
