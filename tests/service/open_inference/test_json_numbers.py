"""Numbers in JSON: whatever is sent, they cost what their shape costs."""

import json
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from service.errors import InvalidRequest
from service.open_inference import json_numbers
from service.open_inference.json_numbers import CUT, array_from_numbers, cut_numbers
from tests.service.open_inference.costly_json import NUMBERS

SHAPE = [2, 4, 5, 3]
PIXELS = np.random.default_rng(1).integers(0, 256, SHAPE, dtype=np.uint8)
WRITTEN: dict[str, Callable[[list], str]] = {
    "with spaces": json.dumps,
    "compact": lambda data: json.dumps(data, separators=(",", ":")),
    "indented": lambda data: json.dumps(data, indent=4),
}


@pytest.mark.parametrize("write", WRITTEN.values(), ids=WRITTEN)
@pytest.mark.parametrize("data", [PIXELS.tolist(), PIXELS.ravel().tolist()], ids=["nested", "flat"])
@pytest.mark.parametrize("piece_bytes", [64, 101, 1 << 16])
def test_numbers_become_a_tensor(
    data: list, write: Callable[[list], str], piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_numbers, "PIECE_BYTES", piece_bytes)
    array = array_from_numbers(write(data).encode(), SHAPE)
    assert array.dtype == np.uint8
    assert (array == PIXELS).all()


def test_a_tensor_of_no_image_has_no_data() -> None:
    shape = [0, *SHAPE[1:]]
    assert array_from_numbers(b"[]", shape).shape == tuple(shape)
    with pytest.raises(InvalidRequest):
        array_from_numbers(b"[[]]", shape)


MALFORMED = [
    *(
        "[1,2,3,4,]",
        "[,1,2,3,4]",
        "[1,,2,3,4]",
        "[1 2,3,4]",
        "[1,2,3,4]]",
        "[[1,2,3,4]",
        "[01,2,3,4]",
    ),
    *("[1,2,3,4", "1,2,3,4", "[[1,2],]3,[4]", "[[1,2],3[4]]", "[[1,2],[3,4],]", "[[1,2][3,4]]"),
    *(
        "[[1,2],[3]4]",
        "[[1],2[3,4]]",
        "[1[,2],[3,4]]",
        "[[1,2]],[[3,4]]",
        "[[1,2,3],[4]]",
        "[]1,2,3,4",
    ),
    *("[-1,2,3,4]", "[1.0,2,3,4]", "[1e0,2,3,4]", "[256,2,3,4]", "[true,2,3,4]", "[null,2,3,4]"),
    *("[NaN,2,3,4]", "[1,2,3,4,5]", "[1,2,3]", "[[[1,2],[3,4]]]", "[0x1,2,3,4]", "[+1,2,3,4]"),
    *(
        "[99999999999999999999,2,3,4]",
        "[1_0,2,3,4]",
        "[1,2,3,4]\x0b",
        "[\xa01,2,3,4]",
        "[]",
        "[[],[]]",
    ),
]


@pytest.mark.parametrize("text", MALFORMED)
@pytest.mark.parametrize("piece_bytes", [4, 1 << 16])
def test_other_numbers_and_nesting_are_refused(
    text: str, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_numbers, "PIECE_BYTES", piece_bytes)
    with pytest.raises(InvalidRequest, match=r"whole numbers from 0 to 255|shape \[2, 2\]"):
        array_from_numbers(text.encode("latin-1"), [2, 2])


def test_a_wrong_number_of_numbers_names_the_right_one() -> None:
    with pytest.raises(InvalidRequest, match=r"shape \[2, 4, 5, 3\]; a flat list has 120 numbers"):
        array_from_numbers(b"[1,2,3]", SHAPE)


@pytest.mark.parametrize("name", NUMBERS)
def test_other_data_is_refused_within_the_memory_of_the_shape(name: str) -> None:
    numbers = cut_numbers(NUMBERS[name])[1] or b"[" + bytes(100_000) + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(InvalidRequest):
            array_from_numbers(numbers, SHAPE)
        assert tracemalloc.get_traced_memory()[1] < 16 * json_numbers.PIECE_BYTES
    finally:
        tracemalloc.stop()


PLACEHOLDER = json.dumps(CUT)


@pytest.mark.parametrize(
    ("before", "numbers", "after"),
    [
        ('{"data":', "[1, 2]", "}"),
        ('{"data" : ', "[[1],[2]]", ' , "x": 1}'),
        ('{"data":', "[0.5, true]", "\n}"),
        ('{"a": "\\"data\\":[3]", "data":', "[1]", "}"),
        ('{"a": "\\\\", "data":', "[1]", "}"),
        ('{"a": "\\"", "data":', "[1]", "}"),
        ('{"a": ["data", "data"], "data":', "[1]", ', "data": [2]}'),
        ('{"a": "%s {}", "data":', "[1]", "}"),
    ],
)
def test_the_first_numbers_of_data_are_cut_out(before: str, numbers: str, after: str) -> None:
    rest, cut = cut_numbers((before + numbers + after).encode())
    assert (rest.decode(), cut.decode()) == (before + PLACEHOLDER + after, numbers)
    assert json.loads(rest)["data"] in (CUT, [2])


@pytest.mark.parametrize(
    "text",
    [
        '{"data":[]}',
        '{"data":[ ]}',
        '{"data":[1]"a":1}',
        '{"data":[1],"a"}',
        '{"data":[1], {}]}',
        '{"data":[[1], {}]}',
        '{"data":[[1], {"a":1}]}',
        '{"data":["a"]}',
        '{"data":[["a"]]}',
        '{"data":[{}]}',
        '{"data":[1, "a"]}',
        '{"data":[[1], "a"]}',
        '{"data":1}',
        '{"x":"\\\\\\"data\\":[1]"}',
        '{"x":"a\\"data\\":[1]"}',
        '{"x":[1]}',
        '{"data":[1',
        '{"data":',
        '{"data"',
    ],
)
def test_other_json_is_unchanged(text: str) -> None:
    assert cut_numbers(text.encode()) == (text.encode(), b"")
