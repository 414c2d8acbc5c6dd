"""Compressed bodies within limits: gzip, and deflate in the zlib format."""

import zlib

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedMediaType
from service.http.accept import preference

_WINDOW_BITS = {"gzip": 31, "deflate": 15}
_ALIASES = {"x-gzip": "gzip"}
_MAX_MEMBERS = {"gzip": 1024, "deflate": 1}
_PIECE_BYTES = 64 * 1024
_LEVEL = 1  # higher levels take several times as long to save a few per cent
MIN_BYTES = 1024
"""Shorter responses are not compressed."""


def decompress(body: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Return the decoded body; stop at `max_bytes`.

    Raises:
        UnsupportedMediaType: the encoding is not supported.
        InvalidRequest: the body is damaged, truncated or followed by other data.
        PayloadTooLarge: the decoded body would be larger than `max_bytes`.
    """
    name = content_encoding.strip().lower()
    if name in ("", "identity"):
        return body
    name = _ALIASES.get(name, name)
    if name not in _WINDOW_BITS:
        raise UnsupportedMediaType(
            f"The content encoding {name[:32]!r} is not supported; use gzip or deflate."
        )
    try:
        return _decompress(body, name, max_bytes)
    except zlib.error as error:
        raise InvalidRequest(f"The body is not well-formed {name}.") from error


def _decompress(body: bytes, name: str, max_bytes: int) -> bytes:
    """Decompress member by member, in pieces: zlib copies the data that follow a member."""
    data, at, ended = bytearray(), 0, False
    for _ in range(_MAX_MEMBERS[name]):
        stream, ended = zlib.decompressobj(_WINDOW_BITS[name]), False
        while at < len(body) and not ended:
            piece = body[at : at + _PIECE_BYTES]
            data += stream.decompress(piece, max_bytes + 1 - len(data))
            if len(data) > max_bytes:
                raise PayloadTooLarge.body(max_bytes)
            at, ended = at + len(piece) - len(stream.unused_data), stream.eof
        if at == len(body):
            break
    if at < len(body) or not ended:
        limit = _MAX_MEMBERS[name]
        members = f", in at most {limit} members" if limit > 1 else ""
        raise InvalidRequest(f"The body is not one whole {name} stream{members}.")
    return bytes(data)


def choose_encoding(accept_encoding: str, size: int) -> str | None:
    """Return the encoding for a response of this size; None if it should not be compressed."""
    if size < MIN_BYTES or not accept_encoding:
        return None
    wishes = {name: preference(accept_encoding, name) for name in _WINDOW_BITS}
    wanted = {name: wish for name, wish in wishes.items() if wish is not None}
    return max(wanted, key=wanted.__getitem__, default=None)


def compress(body: bytes, encoding: str) -> bytes:
    """Encode a body as `choose_encoding` has decided."""
    stream = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return stream.compress(body) + stream.flush()
