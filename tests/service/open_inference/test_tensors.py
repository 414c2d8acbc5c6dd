"""Tensors as JSON and as bytes."""

import json
import tracemalloc

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.open_inference.tensors import array_to_json, zeros
from service.schema.vocabulary import Datatype


def test_zeros_have_the_shape_and_the_type() -> None:
    array = zeros([0, 3], Datatype.FP32)
    assert (array.shape, array.dtype) == ((0, 3), np.float32)


FLOATS = "[1.5,0.1,null,null]"


def test_numbers_become_json_a_piece_at_a_time() -> None:
    labels = np.random.default_rng(1).integers(0, 11, 1_000_003, np.uint8)
    tracemalloc.start()
    try:
        text = array_to_json(labels, Datatype.UINT8)
        assert tracemalloc.get_traced_memory()[1] < 3 * len(text)
    finally:
        tracemalloc.stop()
    assert json.loads(text) == labels.tolist()


@pytest.mark.parametrize(
    ("array", "datatype", "text"),
    [
        (np.array([[1.5, 0.1], [np.nan, np.inf]], np.float32), Datatype.FP32, FLOATS),
        (np.array([['a"b', "é"]], dtype=object), Datatype.BYTES, '["a\\"b","é"]'),
        (np.array([True, False]), Datatype.BOOL, "[true,false]"),
        (np.zeros((0, 3), np.int64), Datatype.INT64, "[]"),
    ],
)
def test_every_kind_of_element_has_its_json(
    array: np.ndarray, datatype: Datatype, text: str
) -> None:
    assert array_to_json(array, datatype).decode() == text


@pytest.mark.parametrize(
    ("bits", "datatype"), [(np.uint32, Datatype.FP32), (np.uint64, Datatype.FP64)]
)
def test_floats_in_json_are_read_as_the_same_floats(bits: type, datatype: Datatype) -> None:
    random = np.random.default_rng(1).integers(0, np.iinfo(bits).max, 100_000, bits)
    floats = random.view(np.float32 if datatype is Datatype.FP32 else np.float64)
    floats = floats[np.isfinite(floats)]
    read = np.array(json.loads(array_to_json(floats, datatype)), floats.dtype)
    assert read.tobytes() == floats.tobytes()


def test_a_tensor_that_is_not_contiguous_has_its_json() -> None:
    array = np.arange(12, dtype=np.int32).reshape(3, 4).T[::2]
    assert array_to_json(array, Datatype.INT32) == b"[0,4,8,2,6,10]"


def test_fp16_has_no_json() -> None:
    with pytest.raises(InvalidRequest, match="binary data"):
        array_to_json(np.zeros(1, np.float16), Datatype.FP16)
