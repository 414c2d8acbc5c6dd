"""Starts the engine and the front ends, restarts front ends that end, and ends with the engine."""

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import structlog

from service.frontends.board import BOARD_BYTES
from service.frontends.memory import create_memory
from service.frontends.start import EngineStart, FrontEndStart

INVALID_CONFIGURATION = 2
FAILED = 1
ARENA_BYTES = 64 << 20
"""Memory for the images of a front end, some 400 of 224 x 224. If it is full, pixels go through the
socket. Only pages that are used count, and the first free place is used first."""
RESTART_SECONDS = 1.0
"""A front end that lived for a shorter time is restarted after this long."""
MAX_FAILED_STARTS = 5
"""After so many starts in a row that lasted less than `STARTED_SECONDS`, the service fails."""
STARTED_SECONDS = 30.0
ANSWER_SECONDS = 4.0
"""Time that front ends have to answer and end after the engine has ended."""
CHECK_SECONDS = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
MAX_MESSAGE_BYTES = 64

_log = structlog.get_logger()


class Supervisor:
    """Owns the listening sockets and all processes. It runs without an event loop.

    Each front end has its own listening socket for each port, so that the kernel spreads the
    connections. The sockets stay open here: connections that a front end has not accepted wait for
    its successor.
    """

    def __init__(
        self,
        listeners: Sequence[Sequence[socket.socket]],
        settings: dict[str, Any],
        local_key: str | None,
    ) -> None:
        self._listeners = listeners
        self._settings = settings
        self._local_key = local_key
        self._board = create_memory("vt-serve board", BOARD_BYTES)
        self._front_ends: dict[int, subprocess.Popen[bytes]] = {}
        self._started_at: dict[int, float] = {}
        self._failed_starts = [0] * len(listeners)
        self._control, self._engines_control = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._is_stopping = False
        self._engine: subprocess.Popen[bytes] | None = None

    def run(self) -> int:
        """Serve until a signal or the end of the engine; return the exit status."""
        with _wake_up(self._stop) as wake_up:
            self._engine = self._start_engine()
            try:
                for index in range(len(self._listeners)):
                    self._start_front_end(index)
                return self._watch(wake_up, self._engine)
            finally:
                self._end_all()

    def _watch(self, wake_up: socket.socket, engine: "subprocess.Popen[bytes]") -> int:
        with selectors.DefaultSelector() as selector:
            selector.register(wake_up, selectors.EVENT_READ)
            selector.register(self._control, selectors.EVENT_READ)
            while engine.poll() is None:
                for key, _ in selector.select(CHECK_SECONDS):
                    if key.fileobj is wake_up:
                        wake_up.recv(4096)
                    elif not self._receive():
                        selector.unregister(self._control)
                status = None if self._is_stopping else self._tend_front_ends()
                if status is not None:
                    return status
        return self._engine_ended(engine.returncode)

    def _engine_ended(self, status: int) -> int:
        """Return the exit status; front ends answer that the engine is lost, and end."""
        is_expected = self._is_stopping and status in (0, -signal.SIGTERM)
        if not is_expected and status != INVALID_CONFIGURATION:
            _log.error("engine_ended", status=status)
        ends_at = time.monotonic() + ANSWER_SECONDS
        for each in self._front_ends.values():
            with suppress(subprocess.TimeoutExpired):
                each.wait(max(0.0, ends_at - time.monotonic()))
        if status == INVALID_CONFIGURATION:
            return status
        return 0 if is_expected else FAILED

    def _tend_front_ends(self) -> int | None:
        """Restart the front ends that have ended; return the exit status if one cannot start."""
        for index, process in list(self._front_ends.items()):
            status = process.poll()
            if status is None:
                continue
            lived_seconds = time.monotonic() - self._started_at[index]
            if status == INVALID_CONFIGURATION:
                return status
            if self._failed_starts[index] >= MAX_FAILED_STARTS:
                return FAILED
            if lived_seconds >= RESTART_SECONDS:
                has_started = lived_seconds >= STARTED_SECONDS
                self._failed_starts[index] = 0 if has_started else self._failed_starts[index] + 1
                _log.error("front_end_ended", front_end=index, status=status)
                self._start_front_end(index)
        return None

    def _receive(self) -> bool:
        """End the front end that the engine names; return whether the engine is there."""
        try:
            message = self._control.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:  # it has ended without reading
            message = b""
        for process in self._front_ends.values():
            if message and process.pid == int(message):
                process.kill()
        return bool(message)

    def _stop(self) -> None:
        """Ask the engine to stop; the second time, without waiting for requests."""
        self._is_stopping = True
        if self._engine is not None:
            self._engine.send_signal(signal.SIGTERM)

    def _start_engine(self) -> "subprocess.Popen[bytes]":
        start = EngineStart(
            settings=self._settings,
            frontends=len(self._listeners),
            board=self._board,
            supervisor=self._engines_control.fileno(),
        )
        process = _start("engine", start, [self._board, start.supervisor])
        self._engines_control.close()
        return process

    def _start_front_end(self, index: int) -> None:
        """Start a front end, and give the engine its connection and its cells."""
        own, engines = socket.socketpair()
        arena = create_memory("vt-serve cells", ARENA_BYTES)
        with own, engines:
            start = FrontEndStart(
                settings=self._settings,
                frontend=index,
                frontends=len(self._listeners),
                board=self._board,
                arena=arena,
                engine=own.fileno(),
                listeners=[each.fileno() for each in self._listeners[index]],
                local_key=self._local_key,
            )
            files = [self._board, arena, start.engine, *start.listeners]
            process = _start("front_end", start, files)
            self._front_ends[index] = process
            self._started_at[index] = time.monotonic()
            message = b"%d %d" % (index, process.pid)
            with suppress(OSError):  # the engine has ended
                socket.send_fds(self._control, [message], [engines.fileno(), arena])
        os.close(arena)

    def _end_all(self) -> None:
        """End what is left; the memory that the processes share ends with them."""
        for process in [*self._front_ends.values(), self._engine]:
            if process is not None and process.poll() is None:
                process.kill()
                process.wait()
        self._control.close()
        os.close(self._board)


def _start(
    name: str, start: EngineStart | FrontEndStart, files: Sequence[int]
) -> "subprocess.Popen[bytes]":
    """Start a process that inherits these open files; signals of the terminal do not reach it."""
    warnings = [f"-W{each}" for each in sys.warnoptions]
    process = subprocess.Popen(  # noqa: S603
        [sys.executable, *warnings, "-m", "service.frontends", name],
        stdin=subprocess.PIPE,
        pass_fds=files,
        start_new_session=True,
    )
    if process.stdin is not None:
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(start.model_dump_json().encode())
    return process


@contextmanager
def _wake_up(stop: Callable[[], None]) -> Iterator[socket.socket]:
    """Return a socket that is readable after a signal; SIGTERM and SIGINT call `stop`."""

    def handle(number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            stop()

    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        before = {each: signal.signal(each, handle) for each in SIGNALS}
        try:
            yield reader
        finally:
            signal.set_wakeup_fd(-1)
            for each, handler in before.items():
                signal.signal(each, handler)
