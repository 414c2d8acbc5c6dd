"""JSON as bytes, for responses, the log and other processes; the only module with `orjson`."""

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


def decode(text: bytes | memoryview) -> Any:
    """Return the value of JSON text that this service has written."""
    return orjson.loads(text)
