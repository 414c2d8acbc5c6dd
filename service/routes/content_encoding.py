"""Compressed bodies, within limits: gzip, and deflate, which is zlib's format."""

import zlib

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.routes.accept import preference

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_LEVEL = 1  # higher ones take several times as long for a few per cent
MIN_BYTES = 1024
"""Less is sent as it is."""


def decompress(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Return the body as it was before it was encoded; stops at `max_bytes`.

    Raises:
        UnsupportedMediaType: it is encoded in another way.
        InvalidRequest: it is damaged, truncated or followed by something else.
        PayloadTooLarge: it would become larger than `max_bytes`.
    """
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return body
    if name not in _WINDOW_BITS:
        raise UnsupportedMediaType(
            f"A body encoded as {name[:32]!r} is not understood; gzip and deflate are."
        )
    stream = zlib.decompressobj(_WINDOW_BITS[name])
    try:
        data = stream.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"The body is not well-formed {name}.") from error
    if len(data) > max_bytes:
        raise PayloadTooLarge.body(max_bytes)
    if not stream.eof or stream.unused_data:
        raise InvalidRequest(f"The body is not one whole {name} stream.")
    return data


def choose_encoding(accept_encoding: str, size: int) -> str | None:
    """Return how an answer of this size is to be compressed; None where it is not."""
    if size < MIN_BYTES or not accept_encoding:
        return None
    wishes = {name: preference(accept_encoding, name) for name in _WINDOW_BITS}
    wanted = {name: wish for name, wish in wishes.items() if wish is not None}
    return max(wanted, key=wanted.__getitem__, default=None)


def compress(body: bytes, encoding: str) -> bytes:
    """Return the body in an encoding that `choose_encoding` returned."""
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()
