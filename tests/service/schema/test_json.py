"""JSON as bytes."""

from typing import Any

import numpy as np
import pytest

from service.schema.json import Encoded, decode, encode
from service.schema.vocabulary import Datatype


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True], "é": "\n"}, '{"a":[1,2.5,null,true],"é":"\\n"}'),
        ([float("nan"), float("inf")], "[null,null]"),
        (np.array([[1, 2], [3, 4]], np.uint8), "[[1,2],[3,4]]"),
        ({1: Datatype.UINT8}, '{"1":"UINT8"}'),
        ({"data": Encoded(b"[1,2]")}, '{"data":[1,2]}'),
    ],
)
def test_values_become_compact_json(value: Any, text: str) -> None:
    assert encode(value).decode() == text


def test_other_types_are_converted_by_the_default() -> None:
    assert encode({"a": 1 + 2j}, default=str) == b'{"a":"(1+2j)"}'
    with pytest.raises(TypeError):
        encode({"a": 1 + 2j})


def test_json_is_parsed() -> None:
    assert decode(b'{"a": [1, 2.5, null, true, "\\u00e9"]}') == {"a": [1, 2.5, None, True, "é"]}


def test_an_error_says_where_parsing_stopped_and_does_not_keep_the_data() -> None:
    with pytest.raises(ValueError, match=r"^unexpected .* at line 2 column 2$") as caught:
        decode(b"[1,\n x]")
    assert caught.value.__context__ is None


def test_nesting_has_a_limit() -> None:
    assert decode(b"[" * 1000 + b"]" * 1000)
    with pytest.raises(ValueError, match="depth limit exceeded"):
        decode(b"[" * (4 << 20))
