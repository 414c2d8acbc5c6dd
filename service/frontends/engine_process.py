"""The process of the engine: the models, their batches and their sessions."""

import asyncio
import os
import signal
import socket
import sys
from contextlib import suppress

import numpy as np
import structlog
import uvloop

from service.engine.engine import CLOSE_SECONDS, Engine
from service.frontends.board import Board, Column
from service.frontends.hub import Hub
from service.frontends.memory import map_memory
from service.frontends.start import EngineStart, given_settings
from service.runtime.allocator import freeze_garbage_collector
from service.runtime.container_limits import memory_limit_bytes
from service.runtime.execution_providers import CPU
from service.runtime.io_binding import pin
from service.runtime.session import expected_provider
from service.settings import Settings
from service.telemetry.metrics.processes import Processes

FILES = 2
MAX_MESSAGE_BYTES = 256
GRACE_SECONDS = 4.0
"""Time that front ends have to end after the drain."""

_log = structlog.get_logger()


def run(start: EngineStart) -> int:
    """Run the engine until it is stopped; return the exit status."""
    settings, output = given_settings(start.settings)
    engine = Engine.from_settings(settings)
    if output is not None:
        output.on_drop = engine.metrics.server.log_line_dropped
    freeze_garbage_collector()
    uvloop.run(EngineProcess(engine, settings, start).run())
    if not engine.devices.close(CLOSE_SECONDS):
        _log.warning("threads_left", seconds=CLOSE_SECONDS)
        sys.stderr.flush()
        os._exit(0)  # a thread in ONNX Runtime would abort a normal exit
    return 0


class EngineProcess:
    """Runs the engine and its hub; the supervisor starts and ends the front ends."""

    def __init__(self, engine: Engine, settings: Settings, start: EngineStart) -> None:
        self._engine = engine
        self._settings = settings
        self._board = Board(start.board, start.frontends)
        self._hub = Hub(engine, self._board, self._end)
        self._supervisor = socket.socket(fileno=start.supervisor)
        self._pins = expected_provider(settings.execution_providers) != CPU
        self._pids: dict[int, int] = {}
        self._stopping = asyncio.Event()
        self._joining: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve the front ends; after a signal, wait for them to answer what they have admitted."""
        loop = asyncio.get_running_loop()
        for each in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(each, self._stop)
        self._observe()
        self._supervisor.setblocking(False)
        loop.add_reader(self._supervisor, self._receive)
        self._engine.start()
        watching = asyncio.create_task(self._hub.run())
        await self._stopping.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.drain_timeout_seconds + GRACE_SECONDS):
                await self._hub.stop()
        self._hub.abort()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        loop.remove_reader(self._supervisor)
        self._supervisor.close()
        await self._engine.close()

    def _stop(self) -> None:
        """Begin the drain; the second time, end it."""
        if self._stopping.is_set():
            self._hub.hurry()
        self._engine.admission.stop()
        self._stopping.set()

    def _receive(self) -> None:
        """Take the connection and the cells of a front end that the supervisor has started."""
        try:
            data, files, _, _ = socket.recv_fds(self._supervisor, MAX_MESSAGE_BYTES, FILES)
        except BlockingIOError:
            return
        if not data:  # the supervisor has ended
            self._stop()
            asyncio.get_running_loop().remove_reader(self._supervisor)
            return
        index, pid = map(int, data.split())
        self._pids[index] = pid
        pages = map_memory(files[1])
        if self._pins:
            arena = pin(pages, self._settings.gpu_devices[0])
        else:
            arena = np.frombuffer(pages, np.uint8)
        os.close(files[1])
        connection = socket.socket(fileno=files[0])
        task = asyncio.create_task(self._hub.join(connection, index, arena))
        self._joining.add(task)
        task.add_done_callback(self._joining.discard)

    def _end(self, index: int) -> None:
        """Ask the supervisor to end the process of a front end that is stuck."""
        with suppress(OSError):
            self._supervisor.send(b"%d" % self._pids[index])

    def _observe(self) -> None:
        """Show the sums of all processes in the metrics."""
        metrics, repository, board = self._engine.metrics, self._engine.repository, self._board
        admission = self._engine.admission
        metrics.registry.unregister(metrics.process)
        metrics.registry.register(Processes(lambda: [os.getpid(), *self._pids.values()]))
        metrics.server.observe(
            ready=lambda: not (admission.stopping or repository.not_ready()),
            in_flight=lambda: board.total(Column.IN_FLIGHT),
            receiving=lambda: board.total(Column.ADMITTED) - board.total(Column.IN_FLIGHT),
            memory_bytes=memory_limit_bytes(),
        )
