"""Static files, compressed once and revalidated by ETag."""

import asyncio
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.exceptions import HTTPException

from service.http.accept import preference
from service.http.middleware.exchange import Exchange
from service.http.reply import Reply

CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
}


@dataclass(frozen=True)
class _File:
    """A file as it is kept: compressed, since browsers ask for nothing else."""

    compressed: bytes
    content_type: str
    etag: str


class StaticFiles:
    """Files by name, read when they are first requested."""

    def __init__(self, paths: Mapping[str, Path]) -> None:
        self._paths = paths
        self._files: dict[str, _File] = {}

    async def reply(self, name: str, exchange: Exchange, vary: str = "Accept-Encoding") -> Reply:
        """Return a file, or 304 if the client has it; raises a 404 for an unknown name."""
        if name not in self._paths:
            raise HTTPException(404)
        if name not in self._files:
            self._files[name] = await asyncio.to_thread(_read, self._paths[name])
        file = self._files[name]
        headers = {"etag": file.etag, "vary": vary}
        if file.etag in exchange.header(b"if-none-match"):
            return Reply(b"", file.content_type, 304, headers)
        if preference(exchange.header(b"accept-encoding"), "gzip") is None:
            return Reply(gzip.decompress(file.compressed), file.content_type, 200, headers)
        headers["content-encoding"] = "gzip"
        return Reply(file.compressed, file.content_type, 200, headers)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    # Weak, because one tag stands for the file and for its compressed form.
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:32]}"'
    return _File(gzip.compress(body, mtime=0), CONTENT_TYPES[path.suffix], etag)
