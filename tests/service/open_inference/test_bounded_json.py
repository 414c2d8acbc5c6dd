"""The JSON of an inference request: what is parsed, and what is refused before."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from service.errors import InvalidRequest, PayloadTooLarge
from service.open_inference import bounded_json
from service.open_inference.bounded_json import MAX_JSON_BYTES
from service.open_inference.json_numbers import CUT
from service.schema.open_inference import InferenceRequest
from tests.service.open_inference.costly_json import COSTLY, LIMITS, LISTS, TEXT, holding


def parse_json(body: bytes, json_bytes: int | None) -> InferenceRequest:
    return bounded_json.parse_json(body, json_bytes)[0]


@pytest.mark.parametrize("name", COSTLY)
def test_json_within_the_bounds_is_parsed(name: str) -> None:
    (tensor,) = parse_json(COSTLY[name], None).inputs
    assert tensor.data


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        (TEXT + b",[]" * (LISTS + 9), "8,192 lists"),
        (TEXT + b",0" * (LIMITS[b","] + 9), "131,072 values"),
        ((TEXT + b",") * 270_000, "524,288 quotation marks"),
        (b'"' + b"\\n" * 530_000 + b'"', "524,288 escapes"),
        (b"{}," * LIMITS[b"{"], "4,096 objects"),
        (b'{"a":0,%s"b":0}' % (b'"c":0,' * LIMITS[b":"]), "4,096 names"),
    ],
)
def test_json_beyond_the_bounds_is_refused_before_it_is_parsed(parts: bytes, limit: str) -> None:
    body = holding(parts)
    tracemalloc.start()
    try:
        with pytest.raises(PayloadTooLarge, match=f"more than {limit}; send tensors as binary"):
            parse_json(body, None)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024
    finally:
        tracemalloc.stop()


def test_json_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(
        PayloadTooLarge, match=r"more than 16,777,216 bytes; send tensors as binary"
    ):
        parse_json(holding(b'"' + b" " * MAX_JSON_BYTES + b'"'), None)


@pytest.mark.parametrize("start", [b"[", b'{"inputs":', b'{"inputs":[', b'[{"a":'])
def test_unclosed_nesting_is_not_json(start: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON: recursion limit exceeded"):
        parse_json(start * 1000, None)


def test_nesting_that_is_too_deep_is_not_json() -> None:
    with pytest.raises(InvalidRequest, match="not JSON: recursion limit exceeded"):
        parse_json(holding(TEXT + b"," + b"[" * 300 + b"]" * 300), None)


def test_a_body_of_opening_brackets_is_refused_unparsed() -> None:
    with pytest.raises(PayloadTooLarge, match="more than 8,192 lists"):
        parse_json(b"[" * MAX_JSON_BYTES, None)


def minimal(**changes: Any) -> dict:
    return {"inputs": [{"name": "images", "shape": [1], "datatype": "UINT8"}], **changes}


def test_null_is_absent() -> None:
    request = minimal(parameters=None, outputs=None, id=None)
    request["inputs"][0] |= {"parameters": None, "data": None}
    assert parse_json(json.dumps(request).encode(), None) == parse_json(
        json.dumps(minimal()).encode(), None
    )


def test_numbers_of_a_tensor_are_cut_out() -> None:
    body = holding(b"[1, 2], [3, 4]")
    request, numbers = bounded_json.parse_json(body, None)
    assert request.inputs[0].data == CUT
    assert numbers == b"[[1, 2], [3, 4]]"


def test_only_the_bytes_that_are_said_to_be_json_are_parsed() -> None:
    text = json.dumps(minimal()).encode()
    assert parse_json(text + b"\xff{", len(text)) == parse_json(text, None)


def test_bytes_after_the_json_are_an_error() -> None:
    text = json.dumps(minimal()).encode()
    sentence = rf"not JSON: trailing characters at line 1 column {len(text) + 1}\.$"
    with pytest.raises(InvalidRequest, match=sentence):
        parse_json(text + b"[{", len(text) + 2)


def test_the_hint_is_left_out_if_the_header_was_sent() -> None:
    with pytest.raises(PayloadTooLarge, match=r"send tensors as binary data\.$"):
        parse_json(bytes(MAX_JSON_BYTES + 1), MAX_JSON_BYTES + 1)


LONG = "x" * 3_000_000
ENDLESS: dict[str, Callable[[dict], object]] = {
    "a shape": lambda tensor: tensor.update(shape=[1] * 100_000),
    "a shape of texts": lambda tensor: tensor.update(shape=["x"] * 100_000),
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
