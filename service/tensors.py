"""Tensors as they travel in the Open Inference Protocol: raw bytes, or JSON."""

import struct
from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from service.errors import InvalidRequest
from service.protocol import Datatype
from service.session import Array

_LENGTH = struct.Struct("<I")

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


def array_from_bytes(data: memoryview, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """View the bytes of a UINT8 tensor, without a copy, as an array of this shape."""
    if len(data) != prod(shape):
        raise InvalidRequest(
            f"A UINT8 tensor of shape {list(shape)} has {prod(shape):,} bytes, not {len(data):,}."
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def array_from_json(data: list[Any], shape: Sequence[int]) -> npt.NDArray[np.uint8]:
    """Return the UINT8 tensor of numbers, flat or nested as the shape says."""
    try:
        array = np.asarray(data)
    except ValueError:
        raise InvalidRequest("The tensor's data are nested unevenly.") from None
    if array.shape not in ((prod(shape),), tuple(shape)):
        raise InvalidRequest(
            f"The tensor's data have the shape {list(array.shape)}; "
            f"they must be flat or have the shape {list(shape)}."
        )
    if array.size and (array.dtype.kind not in "iu" or array.min() < 0 or array.max() > 255):
        raise InvalidRequest("The data of a UINT8 tensor must be whole numbers from 0 to 255.")
    return array.astype(np.uint8).reshape(shape)


def split_elements(data: memoryview, count: int) -> list[bytes]:
    """Return the elements of a BYTES tensor: each has its length, 4 bytes little-endian, before it.

    Raises `InvalidRequest` where there are not exactly `count`.
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
            f"The BYTES tensor does not hold exactly {count} elements, each after its length "
            "of 4 bytes."
        )
    return elements


def join_elements(elements: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor's bytes: each element after its length, 4 bytes little-endian."""
    return b"".join(part for each in elements for part in (_LENGTH.pack(len(each)), each))


def array_to_bytes(array: Array, datatype: Datatype) -> bytes:
    """Return a tensor's bytes, row-major and little-endian."""
    return array.astype(_DTYPES[datatype], copy=False).tobytes()


def array_to_json(array: Array, datatype: Datatype) -> list[Any]:
    """Return a tensor's numbers, flat and row-major; FP16 has no JSON form."""
    if datatype is Datatype.FP16:
        raise InvalidRequest("An FP16 output can only be sent as binary data.")
    values: list[Any] = array.ravel().tolist()
    return values
