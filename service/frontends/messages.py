"""The messages between a front end and the engine: what they are, and how they look as bytes.

A message is its length (of what follows the head) and its kind, then its content. What belongs to a
prediction has a fixed layout; everything else is rare and is JSON. Both processes run on one
machine, so numbers have its byte order, and times are on its monotonic clock.

From a front end:       INFER  CANCEL  RELEASE  SEEN  CALL  REPLY  MAKE_ROOM
From the engine:        ANSWER  FAILED  STATE  CALL  REPLY  MAKE_ROOM  STOP
"""

import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum, IntFlag

import numpy as np

from service.batching.queue import Answer, Run
from service.errors import ServiceError
from service.frontends.failures import error_of, fields_of
from service.runtime.arrays import Array, Outputs
from service.schema.json import decode, encode

HEAD = struct.Struct("=IB")
INFER_HEAD = struct.Struct("=QIHHdqQ")
IMAGE = struct.Struct("=QIII")
ANSWER_HEAD = struct.Struct("=QH")
RUN = struct.Struct("=dddI")
OUTPUT = struct.Struct("=BBBI")
NUMBER = struct.Struct("=Q")
INLINE = 0xFFFF_FFFF_FFFF_FFFF
"""Offset of an image whose pixels follow in the message, because no cell was free."""
MAX_INLINE_BYTES = 4096
"""Larger outputs are written over the image in its cell, if they fit."""

_DTYPES = [np.dtype(each) for each in ("?", *"BHIQbhiqefd")]
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}


class Kind(IntEnum):
    """The kinds of messages."""

    INFER = 1
    CANCEL = 2
    RELEASE = 3
    SEEN = 4
    CALL = 5
    REPLY = 6
    MAKE_ROOM = 7
    ANSWER = 8
    FAILED = 9
    STATE = 10
    STOP = 11


class Flag(IntFlag):
    """Properties of a request for predictions."""

    DEFAULT_DEADLINE = 1


def message(kind: Kind, *parts: bytes) -> bytes:
    """Return a message as bytes."""
    return b"".join((HEAD.pack(sum(map(len, parts)), kind), *parts))


def json_message(kind: Kind, value: object) -> bytes:
    """Return a message whose content is JSON."""
    return message(kind, encode(value))


def number_message(kind: Kind, number: int) -> bytes:
    """Return a message whose content is one number."""
    return message(kind, NUMBER.pack(number))


def number_in(content: memoryview) -> int:
    """Return the number of a message."""
    number: int = NUMBER.unpack(content)[0]
    return number


def failed_message(number: int, error: ServiceError) -> bytes:
    """Return the message that a request has failed."""
    return message(Kind.FAILED, NUMBER.pack(number), encode(fields_of(error)))


def failure_in(content: memoryview) -> tuple[int, ServiceError]:
    """Return the request and the error of a failure."""
    number = number_in(content[: NUMBER.size])
    return number, error_of(decode(content[NUMBER.size :]))


class Parser:
    """Splits a stream into messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, memoryview]]:
        """Return the kind and the content of each message that is complete."""
        if self._rest:
            data = self._rest + data
        view, at, size = memoryview(data), 0, len(data)
        while size - at >= HEAD.size:
            length, kind = HEAD.unpack_from(data, at)
            end = at + HEAD.size + length
            if end > size:
                break
            yield kind, view[at + HEAD.size : end]
            at = end
        self._rest = data[at:]


def pack_outputs(outputs: Outputs, cell: memoryview | None, parts: list[bytes]) -> None:
    """Add the description of an image's outputs to `parts`; large ones are written to its cell."""
    at = 0
    for array in outputs.values():
        size = array.nbytes
        room = -1 if cell is None or size <= MAX_INLINE_BYTES else len(cell) - at
        parts.append(OUTPUT.pack(_CODES[array.dtype], array.ndim, room >= size, size))
        parts.append(struct.pack(f"={array.ndim}I", *array.shape))
        if cell is not None and room >= size:
            place = np.frombuffer(cell, array.dtype, array.size, at).reshape(array.shape)
            np.copyto(place, array)
            at += size
        else:
            parts.append(array.tobytes())


def unpack_outputs(
    content: memoryview, at: int, names: Sequence[str], cell: memoryview | None
) -> tuple[dict[str, Array], int]:
    """Return an image's outputs, copied, and where the next image begins."""
    outputs: dict[str, Array] = {}
    in_cell = 0
    for name in names:
        code, ndim, is_in_cell, size = OUTPUT.unpack_from(content, at)
        at += OUTPUT.size
        shape = struct.unpack_from(f"={ndim}I", content, at)
        at += 4 * ndim
        dtype = _DTYPES[code]
        if is_in_cell:
            data = bytes((cell or memoryview(b""))[in_cell : in_cell + size])
            in_cell += size
        else:
            data = bytes(content[at : at + size])
            at += size
        outputs[name] = np.frombuffer(data, dtype).reshape(shape)
    return outputs, at


def answer_message(
    number: int, answers: Sequence[Answer], cells: Sequence[memoryview | None]
) -> bytes:
    """Return the answers of a request's images, in their order."""
    parts = [ANSWER_HEAD.pack(number, len(answers))]
    for answer, cell in zip(answers, cells, strict=True):
        parts.append(RUN.pack(*answer.run))
        pack_outputs(answer.outputs, cell, parts)
    return message(Kind.ANSWER, *parts)


def answers_in(
    content: memoryview, names: Sequence[str], cells: Sequence[memoryview | None]
) -> list[Answer]:
    """Return the answers of a request's images."""
    answers, at = list[Answer](), ANSWER_HEAD.size
    for cell in cells:
        run = Run(*RUN.unpack_from(content, at))
        outputs, at = unpack_outputs(content, at + RUN.size, names, cell)
        answers.append(Answer(outputs, run))
    return answers
