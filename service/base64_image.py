"""Image files as text."""

import base64

from service.errors import InvalidRequest


def decode_base64(index: int, text: str) -> bytes:
    """Decode an image's base64, with or without line breaks and a data URI's prefix.

    Raises `InvalidRequest`, which names the image's index in its request.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise InvalidRequest(f"Image {index} is not base64.") from error
