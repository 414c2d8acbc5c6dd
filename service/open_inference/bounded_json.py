"""Parse the JSON of an inference request within limits: no other thread runs meanwhile."""

from pydantic import ValidationError
from pydantic_core import from_json

from service.errors import InvalidRequest, PayloadTooLarge
from service.schema.open_inference import InferenceRequest
from service.schema.validation import first_problem

JSON_BYTES_HEADER = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 4 * 1024 * 1024
MAX_JSON_PARTS = {
    b",": (1 << 19, "values"),
    b"[": (180_000, "lists"),
    b"{": (4096, "objects"),
    b":": (4096, "names"),
}
"""Limits on the bytes that each create an object in memory. A list takes several times as long as a
number. The limit on lists allows one for each pixel of a 352x480 photo.
"""

_WITHOUT_HEADER = (
    f" Without {JSON_BYTES_HEADER} the whole body is read as JSON. If binary data follow the JSON, "
    "set it to the number of bytes that are JSON; if the body is one photo or tensor, set it to 0."
)


def parse_json(body: bytes, json_bytes: int | None) -> InferenceRequest:
    """Parse the first `json_bytes` of a body; None means all of it.

    Raises:
        InvalidRequest: the text is not JSON, or not an inference request.
        PayloadTooLarge: the text is too long, or has too many parts.
    """
    hint = _WITHOUT_HEADER if json_bytes is None else ""
    _check_bytes(len(body) if json_bytes is None else json_bytes, hint)
    text = body[:json_bytes]
    _check_parts(text, hint)
    try:
        values = from_json(text)  # orjson would need 12 bytes of memory per byte of text
    except ValueError as error:
        raise InvalidRequest(f"The inference request is not JSON: {error}.{hint}") from error
    try:
        return InferenceRequest.model_validate(values)
    except ValidationError as error:
        raise InvalidRequest(
            f"The inference request is not valid: {first_problem(error)}."
        ) from error


def _check_bytes(size: int, hint: str) -> None:
    if size > MAX_JSON_BYTES:
        raise _too_large(f"{MAX_JSON_BYTES:,} bytes", hint)


def _check_parts(text: bytes, hint: str) -> None:
    for byte, (limit, name) in MAX_JSON_PARTS.items():
        if text.count(byte) > limit:
            raise _too_large(f"{limit:,} {name}", hint)


def _too_large(limit: str, hint: str) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"The request's JSON has more than {limit}; send tensors as binary data.{hint}"
    )
