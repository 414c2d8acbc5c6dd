"""JSON as bytes, for responses and log lines; the only module that imports `orjson`."""

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
