"""The local key: proof that a request comes from the server's own user on its own machine."""

import hmac
import ipaddress
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import structlog

TOKEN_BYTES = 32

_log = structlog.get_logger()


class LocalKey:
    """A random key in a file that only the server's user can read, while the server runs.

    The address of a client proves nothing: a proxy on the same machine also connects from the
    loopback address, and forwards any headers of its clients.
    """

    def __init__(self, path: Path | None, port: int, token: str | None = None) -> None:
        """Keep the key in `path`, by default in the user's cache folder, named after the port.

        With a `token`, another process has made the key and keeps it.
        """
        self.token = token or secrets.token_urlsafe(TOKEN_BYTES)
        self._is_own = token is None
        self._path = path
        self._port = port

    def matches(self, token: bytes | None) -> bool:
        """Compare a token with the key in constant time."""
        return token is not None and hmac.compare_digest(token, self.token.encode())

    @contextmanager
    def written(self) -> Iterator[None]:
        """Keep the key in its file; if that fails, log it: the key is then unusable."""
        if not self._is_own:
            yield
            return
        try:
            path = self._path or Path.home() / ".cache" / "vt-serve" / f"{self._port}.key"
            self._write(path)
        except (OSError, RuntimeError) as error:  # RuntimeError: the user has no home folder
            _log.warning("local_key_not_written", error=str(error))
            yield
            return
        _log.info("local_key", path=str(path))
        try:
            yield
        finally:
            self._remove(path)

    def _write(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.exists() and not path.is_file():
            raise FileExistsError(f"{path} is not a regular file")
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode=0o600)
        with open(descriptor, "w") as file:  # noqa: PTH123  # a descriptor has no path
            file.write(self.token)

    def _remove(self, path: Path) -> None:
        """Remove the file, unless another server has replaced it."""
        with suppress(OSError):
            if path.read_text() == self.token:
                path.unlink()


def is_loopback(host: str) -> bool:
    """Return whether an address, or the name `localhost`, is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
