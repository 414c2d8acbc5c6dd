"""Image files as text."""

import base64
import string

from service.errors import InvalidRequest

_WHITESPACE = string.whitespace.encode("ascii")


def decode_base64(index: int, text: str) -> bytes:
    """Decode an image's base64, with or without line breaks and a data URI's prefix.

    Raises `InvalidRequest`, which names the image's index in its request.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        letters = text.encode("ascii").translate(None, _WHITESPACE)
        return base64.b64decode(letters, validate=True)
    except ValueError as error:
        raise InvalidRequest(f"Image {index} is not base64.") from error
