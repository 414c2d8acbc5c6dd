"""JSON as bytes: the one door to orjson, for request and response bodies and for log lines."""

from typing import Any

import orjson

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z

Encoded = orjson.Fragment
"""JSON text that `encode` copies into its result unchanged."""


def encode(value: Any, default: Any = None) -> bytes:
    """Return a value as compact UTF-8 JSON.

    Dataclasses, enums, datetimes and NumPy arrays are supported; `default` converts any other type
    to a supported one. NaN and infinity become null.
    """
    return orjson.dumps(value, default, _OPTIONS)


def decode(data: bytes) -> Any:
    """Parse UTF-8 JSON; raises `ValueError`, which says where parsing stopped."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:  # it holds a copy of all the data: do not chain it
        raise ValueError(f"{error.msg} at line {error.lineno} column {error.colno}") from None
