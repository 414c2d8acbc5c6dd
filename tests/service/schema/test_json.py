"""JSON as bytes."""

from typing import Any

import numpy as np
import pytest

from service.schema.json import Encoded, encode
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
