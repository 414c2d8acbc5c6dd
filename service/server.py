"""The HTTP server: binds first, drains on the first signal, exits on the second."""

import asyncio
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.admission import Admission
from service.errors import InvalidConfiguration
from service.events import Events
from service.file_watch import FileWatch
from service.http_protocol import BoundedProtocol, ConnectionLimits
from service.settings import Settings
from service.tls import Tls

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

    def __init__(
        self, app: Callable[..., Any], admission: Admission, events: Events, settings: Settings
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # who may change models depends on the client's address
                timeout_graceful_shutdown=ABORT_SECONDS,
            )
        )
        self._admission = admission
        self._events = events
        self._limits = ConnectionLimits(
            settings.max_connections,
            settings.max_header_bytes,
            settings.header_timeout_seconds,
            settings.send_timeout_seconds,
        )
        self._tls = _tls(settings, events)
        self._drain_timeout_seconds = settings.drain_timeout_seconds
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen as Uvicorn does on sockets that are bound, within the limits."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        protocol = partial(
            BoundedProtocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            limits=self._limits,
            on_drop=self._events.connection_dropped,
        )
        self.servers = [await self._listen(protocol, each) for each in sockets or ()]
        self.started = True

    async def _listen(
        self, protocol: Callable[[], asyncio.Protocol], listener: socket.socket
    ) -> asyncio.Server:
        loop, backlog = asyncio.get_running_loop(), self.config.backlog
        if self._tls is None:
            return await loop.create_server(protocol, sock=listener, backlog=backlog)
        return await loop.create_server(
            protocol,
            sock=listener,
            backlog=backlog,
            ssl=self._tls.context,
            ssl_handshake_timeout=self._limits.header_timeout_seconds,
            ssl_shutdown_timeout=self._limits.send_timeout_seconds,
        )

    async def main_loop(self) -> None:
        """Serve until it is time to exit; take over renewed certificates meanwhile."""
        if self._tls is None:
            await super().main_loop()
            return
        watching = asyncio.create_task(FileWatch(self._tls.files, self._tls.reload).run())
        try:
            await super().main_loop()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

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


def _tls(settings: Settings, events: Events) -> Tls | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_certificate, settings.tls_key, events)
