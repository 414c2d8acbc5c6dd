"""Parse the JSON of an inference request within limits: no other thread runs meanwhile.

The limits are on what is left of it without the numbers of a tensor.
"""

from pydantic import ValidationError
from pydantic_core import from_json

from service.errors import InvalidRequest, PayloadTooLarge
from service.open_inference.json_numbers import cut_numbers
from service.schema.open_inference import InferenceRequest
from service.schema.validation import first_problem

JSON_BYTES_HEADER = "Inference-Header-Content-Length"
MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_JSON_PARTS = {
    b'"': (1 << 19, "quotation marks"),
    b"\\": (1 << 19, "escapes"),
    b",": (1 << 17, "values"),
    b"[": (1 << 13, "lists"),
    b"{": (4096, "objects"),
    b":": (4096, "names"),
}
"""Limits on the bytes that each cost time or memory. A list takes several times as long to parse as
a text.
"""

_WITHOUT_HEADER = (
    f" Without {JSON_BYTES_HEADER} the whole body is read as JSON. If binary data follow the JSON, "
    "set it to the number of bytes that are JSON; if the body is one photo or tensor, set it to 0."
)


def parse_json(body: bytes, json_bytes: int | None) -> tuple[InferenceRequest, bytes]:
    """Parse the first `json_bytes` of a body; None means all of it.

    The numbers of its tensor, if there are any, are returned as text; the tensor's data are `CUT`.

    Raises:
        InvalidRequest: the text is not JSON, or not an inference request.
        PayloadTooLarge: the text is too long, or has too many parts.
    """
    hint = _WITHOUT_HEADER if json_bytes is None else ""
    text, numbers = cut_numbers(body[:json_bytes])
    _check_bytes(len(text), hint)
    _check_parts(text, hint)
    try:
        values = from_json(text)  # orjson would need 12 bytes of memory per byte of text
    except ValueError as error:
        raise InvalidRequest(f"The inference request is not JSON: {error}.{hint}") from error
    try:
        return InferenceRequest.model_validate(values), numbers
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
