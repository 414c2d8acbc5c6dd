"""JSON as bytes: the one door of orjson, for bodies and for lines of the log."""

from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z


def encode(value: Any, default: Any = None) -> bytes:
    """Return a value as compact UTF-8 JSON.

    Dataclasses, enums, datetimes and NumPy arrays are understood; `default` turns anything else
    into something that is. What is not a number (NaN, infinity) becomes null.
    """
    return orjson.dumps(value, default, _OPTIONS)
