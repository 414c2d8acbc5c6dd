"""Decode image files sent as base64 text."""

import binascii
import string

from service.errors import InvalidRequest

PIECE_CHARACTERS = 4 << 20  # other threads can run between two pieces, but not during one
_URLS = ("http://", "https://")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_WHITESPACE = string.whitespace.encode()


def decode_base64(index: int, text: str) -> bytes:
    """Decode an image from base64, or its form for URLs; padding may be missing.

    Line breaks and the prefix of a data URI are ignored.

    Raises `InvalidRequest`, which names the image's index in its request.
    """
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    elif text[:8].lower().startswith(_URLS):
        raise InvalidRequest(
            f"Image {index} is a URL. URLs are not fetched; send the image itself as base64."
        )
    try:
        characters = text.encode("ascii").translate(_STANDARD, _WHITESPACE)
        return _decode(characters + b"=" * (-len(characters) % 4))
    except ValueError as error:
        raise InvalidRequest(f"Image {index} is not base64.") from error


def _decode(characters: bytes) -> bytes:
    """Decode piece by piece; only the last piece may be padded."""
    pieces = [
        characters[at : at + PIECE_CHARACTERS] for at in range(0, len(characters), PIECE_CHARACTERS)
    ]
    if any(b"=" in piece for piece in pieces[:-1]):
        raise ValueError("padding in the middle")
    return b"".join(binascii.a2b_base64(piece, strict_mode=True) for piece in pieces)
