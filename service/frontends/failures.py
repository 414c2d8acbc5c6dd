"""Errors of the tree as JSON, so that a front end raises what the engine raised."""

import traceback
from typing import Any

from service import errors
from service.errors import QueueFull, ServiceError

_TYPES = {
    name: each
    for name, each in vars(errors).items()
    if isinstance(each, type) and issubclass(each, ServiceError)
}


class EngineError(Exception):
    """The cause of a failure in the engine: its traceback, for the log of the request."""


def fields_of(error: ServiceError) -> dict[str, Any]:
    """Return an error as JSON data."""
    fields: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, QueueFull):
        fields["seconds"] = error.retry_after_seconds
    if error.__cause__ is not None:
        fields["cause"] = "".join(traceback.format_exception(error.__cause__))
    return fields


def error_of(fields: dict[str, Any]) -> ServiceError:
    """Return the error of JSON data."""
    kind = _TYPES[fields["type"]]
    arguments = [fields["seconds"]] if issubclass(kind, QueueFull) else []
    error = kind(fields["message"], *arguments)
    if "cause" in fields:
        error.__cause__ = EngineError(fields["cause"])
    return error
