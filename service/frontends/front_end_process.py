"""The process of a front end: HTTP, TLS, keys, decoding and encoding."""

import signal
import socket
from functools import partial

import structlog
import uvloop

from service.api_keys import ApiKeys
from service.app import Access, create_app
from service.frontends.board import Board, Column, SharedTally
from service.frontends.memory import map_memory
from service.frontends.rate_limits import SharedBucket
from service.frontends.remote_engine import RemoteEngine, Shared
from service.frontends.start import FrontEndStart, given_settings
from service.http.middleware.local_key import LocalKey
from service.http.server.connections import Counts
from service.http.server.server import Server
from service.runtime.allocator import freeze_garbage_collector
from service.settings import Settings
from service.telemetry.log_output import LogOutput

PORTS = (
    (Column.CONNECTIONS, Column.IDLE_CONNECTIONS),
    (Column.METRICS_CONNECTIONS, Column.IDLE_METRICS_CONNECTIONS),
)
"""The counts of the open and the idle connections of each port."""
LOST = 1
"""Exit status if the engine has ended."""

_log = structlog.get_logger()


def run(start: FrontEndStart) -> int:
    """Serve until the engine says otherwise; return the exit status."""
    for each in (signal.SIGINT, signal.SIGTERM):  # the engine says when to stop
        signal.signal(each, signal.SIG_IGN)
    settings, output = given_settings(start.settings)
    return uvloop.run(_serve(start, settings, output))


async def _serve(start: FrontEndStart, settings: Settings, output: LogOutput | None) -> int:
    board = Board(start.board, start.frontends)
    shared = Shared(
        start.frontend, board, map_memory(start.arena), socket.socket(fileno=start.engine)
    )
    engine = RemoteEngine(settings, shared)
    engine.process = process = FrontEndProcess(engine, settings, start, board)
    if output is not None:
        output.on_drop = engine.metrics.server.log_line_dropped
    await engine.connect()
    freeze_garbage_collector()
    await process.serve([socket.socket(fileno=each) for each in start.listeners])
    return LOST if process.is_lost else 0


class FrontEndProcess:
    """The server of a front end, and what the engine asks of it."""

    def __init__(
        self, engine: RemoteEngine, settings: Settings, start: FrontEndStart, board: Board
    ) -> None:
        self.is_lost = False
        """Whether the engine has ended."""
        self._engine = engine
        self._board = board
        self._frontend = start.frontend
        app = create_app(settings, engine, self._access(settings, start))
        counts = [self._counts(port) for port in range(len(start.listeners))]
        self._server = _FrontEndServer(
            app.asgi, engine.admission, engine.metrics.server, settings, counts
        )

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Serve until the drain ends."""
        await self._server.serve(listeners)

    def make_room(self, port: int) -> None:
        """Close an idle connection on a port."""
        if port < len(self._server.ports):
            self._server.ports[port].close_idle()

    def stop(self) -> None:
        """Answer what is admitted, and end; answer nothing more if called again."""
        self._server.should_exit |= self._engine.admission.stopping
        self._engine.admission.stop()

    def lost(self) -> None:
        """Answer that the engine is lost, and end."""
        if not self._engine.admission.stopping:
            _log.error("engine_lost", front_end=self._frontend)
        self.is_lost = True
        self._engine.admission.abort()

    def _access(self, settings: Settings, start: FrontEndStart) -> Access:
        keys = None
        if settings.api_keys_file is not None:
            bucket = partial(_bucket, self._board)
            events = self._engine.metrics.server
            keys = ApiKeys(settings.api_keys_file, events, shared_bucket=bucket)
        if start.local_key is None:
            return Access(keys, None)
        return Access(keys, LocalKey(None, settings.port, start.local_key))

    def _counts(self, port: int) -> Counts:
        tally = partial(SharedTally, self._board, frontend=self._frontend)
        opened, idle = (tally(column=column) for column in PORTS[port])
        return Counts(opened, idle, partial(self._close_elsewhere, port, idle))

    def _close_elsewhere(self, port: int, idle: SharedTally) -> bool:
        """Ask for an idle connection of another front end to be closed, if there is one."""
        if idle.total == idle.own:
            return False
        self._engine.make_room_elsewhere(port)
        return True


class _FrontEndServer(Server):
    """A server that the engine stops, not a signal."""

    def handle_exit(self, sig: int, frame: object) -> None:
        """Ignore a signal."""


def _bucket(board: Board, digest: bytes, rate: float, burst: int) -> SharedBucket:
    return SharedBucket(board, int.from_bytes(digest[:7]), rate, burst)
