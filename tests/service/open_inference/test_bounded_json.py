"""The JSON of an inference request: what is admitted, how long it takes, and what is refused."""

import gc
import json
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from service.errors import InvalidRequest, PayloadTooLarge
from service.open_inference.bounded_json import MAX_JSON_BYTES, MAX_JSON_PARTS, parse_json
from tests.service.conftest import TURN_SECONDS

LIMITS = {byte: limit for byte, (limit, _) in MAX_JSON_PARTS.items()}
HEAD = b'{"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1], "data": ['
TAIL = b"]}]}"
ROOM = MAX_JSON_BYTES - len(HEAD + TAIL)


def holding(parts: bytes) -> bytes:
    """A request whose input has these data."""
    return HEAD + parts.rstrip(b",") + TAIL


def filled(parts: bytes, filler: bytes = b"0,") -> bytes:
    """The same with as many fillers as may be."""
    values = LIMITS[b","] - parts.count(b",") - 9
    return holding(parts + filler * min(values, (ROOM - len(parts)) // len(filler)))


LISTS = LIMITS[b"["] - 9
DEEP = b"[" * 190 + b"]" * 190 + b","
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


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_admitted_does_not_hold_up_others_for_long(name: str) -> None:
    body, seconds = COSTLY[name], []
    gc.collect()
    gc.freeze()
    for _ in range(3):
        before = time.thread_time()
        parse_json(body, None)
        seconds.append(time.thread_time() - before)
    gc.unfreeze()
    assert min(seconds) < 2 * TURN_SECONDS  # half of it where the processor is free


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        (b"[]," * (LISTS + 9), "180,000 lists"),
        (b"0," * (LIMITS[b","] + 9), "524,288 values"),
        (b"{}," * LIMITS[b"{"], "4,096 objects"),
        (b'{"a":0,%s"b":0}' % (b'"c":0,' * LIMITS[b":"]), "4,096 names"),
        (b" " * MAX_JSON_BYTES, "4,194,304 bytes"),
    ],
)
def test_what_would_take_longer_is_refused_before_it_is_parsed(parts: bytes, limit: str) -> None:
    body = holding(parts)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=f"more than {limit}; send tensors as binary"):
            parse_json(body, None)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("byte", [b"[", b'{"inputs":', b'{"inputs":[', b'[{"a":'])
def test_what_is_nested_without_end_is_no_json(byte: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON: recursion limit exceeded"):
        parse_json(byte * 1000, None)


def minimal(**changes: Any) -> dict:
    return {"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8"}], **changes}


def test_null_is_absent() -> None:
    request = minimal(parameters=None, outputs=None, id=None)
    request["inputs"][0] |= {"parameters": None, "data": None}
    assert parse_json(json.dumps(request).encode(), None) == parse_json(
        json.dumps(minimal()).encode(), None
    )


def test_only_the_bytes_that_are_said_to_be_json_are() -> None:
    text = json.dumps(minimal()).encode()
    assert parse_json(text + b"\xff{", len(text)) == parse_json(text, None)
    with pytest.raises(
        InvalidRequest, match=r"not JSON: .*trailing characters at line 1 column \d+\.$"
    ):
        parse_json(text + b"\xff{", len(text) + 2)
    with pytest.raises(PayloadTooLarge, match=r"send tensors as binary data\.$"):
        parse_json(bytes(MAX_JSON_BYTES + 1), MAX_JSON_BYTES + 1)


LONG = "x" * 3_000_000
ENDLESS: dict[str, Callable[[dict], object]] = {
    "a shape": lambda tensor: tensor.update(shape=[1] * 500_000),
    "a shape of texts": lambda tensor: tensor.update(shape=["x"] * 500_000),
    "a side": lambda tensor: tensor.update(shape=[10**4000]),
    "a text for a side": lambda tensor: tensor.update(shape=[LONG]),
    "a name": lambda tensor: tensor.update(name=LONG),
    "a datatype": lambda tensor: tensor.update(datatype=LONG),
    "parameters": lambda tensor: tensor.update(parameters=LONG),
    "data": lambda tensor: tensor.update(data=LONG),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_an_error_never_repeats_what_was_sent(name: str) -> None:
    request = minimal()
    ENDLESS[name](request["inputs"][0])
    with pytest.raises(InvalidRequest) as caught:
        parse_json(json.dumps(request).encode(), None)
    assert len(str(caught.value)) < 400
    assert "xxx" not in str(caught.value)


@pytest.mark.parametrize("key", ["inputs", "outputs"])
def test_inputs_and_outputs_are_few(key: str) -> None:
    each = {"name": "images", "shape": [1], "datatype": "UINT8"}
    with pytest.raises(InvalidRequest, match=f"{key}: List should have at most 64 items"):
        parse_json(json.dumps(minimal(**{key: [each] * 65})).encode(), None)
