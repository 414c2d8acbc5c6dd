"""The HTTP server: binds first, drains on the first signal, exits on the second."""

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.config import STARTUP_FAILURE

from service.engine.admission import Admission
from service.errors import InvalidConfiguration
from service.file_watch import FileWatch
from service.http.server.connections import RESERVED, Connections, Counts
from service.http.server.open_files import connections_within
from service.http.server.protocol import BoundedProtocol, ConnectionLimits
from service.http.server.tls import Tls
from service.settings import Settings
from service.telemetry.events import ServerEvents

ABORT_SECONDS = 2  # limit on the shutdown after the drain
ANSWER_SECONDS = 1.5  # of these: time for the last clients to read their responses
HURRIED_ANSWER_SECONDS = 0.2  # the same after a second signal

App = Callable[..., Awaitable[None]]

_log = structlog.get_logger()


def bind(host: str, port: int) -> socket.socket:
    """Bind the port, before anything is loaded; `::` also accepts IPv4."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=both)
    except OSError as error:
        raise InvalidConfiguration(
            f"Cannot listen on {host} port {port}: {error.strerror or error}."
        ) from error


class Server(uvicorn.Server):
    """Uvicorn, except that the port stays open and reports "not ready" during the drain."""

    def __init__(
        self,
        app: App,
        admission: Admission,
        events: ServerEvents,
        settings: Settings,
        counts: Sequence[Counts] = (),
    ) -> None:
        """Prepare to serve; `counts` has the counts of each port, if other processes share it."""
        super().__init__(
            uvicorn.Config(
                _until_cancelled(app),
                http=BoundedProtocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # the local key is for clients on this machine
                timeout_keep_alive=settings.keep_alive_timeout_seconds,  # type: ignore[arg-type]
                timeout_graceful_shutdown=ABORT_SECONDS,
            )
        )
        self.ports: list[Connections] = []
        """The connections of each port."""
        self._counts = counts
        self._admission = admission
        self._events = events
        self._limits = ConnectionLimits(
            settings.max_header_bytes,
            settings.header_timeout_seconds,
            settings.send_timeout_seconds,
        )
        self._max_connections = settings.max_connections
        self._tls = _tls(settings, events)
        self._drain_timeout_seconds = settings.drain_timeout_seconds
        self._drain_ends: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen on the bound sockets as Uvicorn does, with limits on connections."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        sockets = sockets or []
        limit = connections_within(self._max_connections, len(sockets))
        counts = self._counts or [Counts() for _ in sockets]
        self.ports = [Connections(limit, RESERVED, each) for each in counts[: len(sockets)]]
        self.servers = [
            await self._listen(self._protocol(port), each)
            for port, each in zip(self.ports, sockets, strict=True)
        ]
        self.started = True

    def _protocol(self, port: Connections) -> Callable[[], asyncio.Protocol]:
        """Return the factory of the connections of one port."""
        return partial(
            BoundedProtocol,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            limits=self._limits,
            port=port,
            is_draining=lambda: self._admission.stopping,
            on_drop=self._events.connection_dropped,
        )

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
        """Serve until it is time to exit; reload renewed certificates meanwhile."""
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
        """Begin the drain; on a second signal, exit at once.

        It does not log, because it interrupts the main thread, which may hold the lock of the log.
        """
        if self._admission.stopping:
            self.should_exit = True
        self._admission.stop()

    async def on_tick(self, counter: int) -> bool:
        """Exit once nothing is in flight, or at the time limit of the drain."""
        if self._admission.stopping and self._is_drained():
            return True
        return await super().on_tick(counter)

    def _is_drained(self) -> bool:
        now = time.monotonic()
        if self._drain_ends is None:
            self._drain_ends = now + self._drain_timeout_seconds
            self._begin_drain()
        if self.should_exit or now >= self._drain_ends or self._admission.is_empty:
            self._admission.abort()
            return True
        return False

    def _begin_drain(self) -> None:
        admission = self._admission
        _log.info("draining", requests=admission.in_flight + admission.receiving)
        for connection in list(self.server_state.connections):
            connection.begin_drain()  # type: ignore[union-attr]

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down as Uvicorn does, but abort the remaining connections earlier.

        Uvicorn would cancel their requests and log a traceback for each.
        """
        seconds = HURRIED_ANSWER_SECONDS if self.should_exit else ANSWER_SECONDS
        timer = asyncio.get_running_loop().call_later(seconds, self._abort_connections)
        await super().shutdown(sockets)
        timer.cancel()

    def _abort_connections(self) -> None:
        for connection in list(self.server_state.connections):
            connection.transport.abort()


def _until_cancelled(app: App) -> App:
    """End a request that outlasts the server quietly, since its connection is gone."""

    async def call(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return call


def _tls(settings: Settings, events: ServerEvents) -> Tls | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return Tls(settings.tls_certificate, settings.tls_key, events)
