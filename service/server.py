"""The HTTP server: binds first, drains on the first signal, exits on the second."""

import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import structlog
import uvicorn

from service.admission import Admission
from service.errors import InvalidConfiguration
from service.http_protocol import OneWriteProtocol
from service.settings import Settings

ABORT_SECONDS = 2  # for those failed at the end of the drain to get their answer

_log = structlog.get_logger()


def bind(host: str, port: int) -> socket.socket:
    """Take the port before anything is loaded."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidConfiguration(
            f"Cannot listen on {host} port {port}: {error.strerror or error}."
        ) from error


class Server(uvicorn.Server):
    """Uvicorn, but the port stays open and answers "not ready" while requests are finished."""

    def __init__(self, app: Callable[..., Any], admission: Admission, settings: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=OneWriteProtocol,
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing here depends on the client's address
                timeout_graceful_shutdown=ABORT_SECONDS,
            )
        )
        self._admission = admission
        self._drain_timeout_seconds = settings.drain_timeout_seconds
        self._drain_ends: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin to drain; a second signal exits now.

        This interrupts whatever the main thread does, which may hold the log's lock: no log here.
        """
        if self._admission.stopping:
            self.should_exit = self.force_exit = True
        self._admission.stop()

    async def on_tick(self, counter: int) -> bool:
        """Exit once nothing is in flight, or when the drain has lasted long enough."""
        if self._admission.stopping and self._is_drained():
            return True
        return await super().on_tick(counter)

    def _is_drained(self) -> bool:
        now = time.monotonic()
        if self._drain_ends is None:
            self._drain_ends = now + self._drain_timeout_seconds
            _log.info("draining", requests=self._admission.in_flight)
        if now >= self._drain_ends:
            self._admission.abort()
            return True
        return self._admission.in_flight == 0
