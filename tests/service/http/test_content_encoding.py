import gzip
import zlib
from collections.abc import Callable

import pytest

from service.errors import InvalidRequest, PayloadTooLarge
from service.http.content_encoding import decompress

TEXT = b"".join(b"%d, " % number for number in range(50_000))


@pytest.mark.parametrize("name", ["gzip", "GZIP", "x-gzip", " gzip "])
def test_gzip_has_two_names(name: str) -> None:
    assert decompress(gzip.compress(TEXT), name, len(TEXT)) == TEXT


@pytest.mark.parametrize("cuts", [[], [1], [100, 200], [65_000, 65_536, 131_072]])
@pytest.mark.parametrize("level", [0, 6])
def test_gzip_may_have_several_members(cuts: list[int], level: int) -> None:
    parts = [TEXT[at:end] for at, end in zip([0, *cuts], [*cuts, None], strict=True)]
    body = b"".join(gzip.compress(part, level) for part in parts)
    assert decompress(body, "gzip", len(TEXT)) == TEXT


def test_the_limit_applies_to_all_members_together() -> None:
    body = gzip.compress(TEXT) * 3
    assert decompress(body, "gzip", 3 * len(TEXT)) == 3 * TEXT
    with pytest.raises(PayloadTooLarge):
        decompress(body, "gzip", 3 * len(TEXT) - 1)


def test_members_are_bounded() -> None:
    assert decompress(gzip.compress(b"a") * 1024, "gzip", 2000) == b"a" * 1024
    with pytest.raises(InvalidRequest, match="one whole gzip stream, in at most 1024 members"):
        decompress(gzip.compress(b"a") * 1025, "gzip", 2000)


@pytest.mark.parametrize(
    ("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
@pytest.mark.parametrize("text", [b"", b"a", TEXT])
def test_an_incomplete_stream_is_refused(
    encoding: str, compress: Callable[[bytes], bytes], text: bytes
) -> None:
    body = compress(text)
    assert decompress(body, encoding, len(TEXT)) == text
    with pytest.raises(InvalidRequest, match=f"one whole {encoding} stream"):
        decompress(body[:-1], encoding, len(TEXT))
    with pytest.raises(InvalidRequest, match=encoding):
        decompress(body + b"more", encoding, len(TEXT))


def test_deflate_has_one_member() -> None:
    with pytest.raises(InvalidRequest, match="one whole deflate stream"):
        decompress(zlib.compress(TEXT) * 2, "deflate", 3 * len(TEXT))
