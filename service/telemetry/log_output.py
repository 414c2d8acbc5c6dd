"""Standard error as the log's output: it never blocks the server, and never raises."""

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_WAITING_BYTES = 1 << 20
PIECE_BYTES = select.PIPE_BUF
"""A pipe that is ready for writing takes this much without blocking."""


class LogOutput:
    """A file that can be written to from any thread.

    While its reader is busy, up to `MAX_WAITING_BYTES` wait for a thread to write them. Beyond
    that, and if the reader is gone or the disk is full, lines are dropped and counted.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = self._new_poll()
        self.on_drop: Callable[[], None] = _ignore
        """Called for each line that is dropped."""
        self._lock = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._thread: threading.Thread | None = None
        """Writes the lines that wait, if there are any."""

    def write(self, line: bytes) -> int:
        """Write a line, or let it wait, or drop it."""
        with self._lock:
            if self._thread is None:
                line = self._write_now(line)
            if line:
                self._let_wait(line)
        return len(line)

    def flush(self) -> None:
        """Do nothing: lines are written at once if they can be."""

    def finish(self, seconds: float) -> None:
        """Wait until no line waits, but not longer than this."""
        if (thread := self._thread) is not None:
            thread.join(seconds)

    def _write_now(self, data: bytes) -> bytes:
        """Write as much as the reader takes without blocking; return the rest."""
        while data and self._poll.poll(0):
            try:
                data = data[os.write(self._descriptor, data[:PIECE_BYTES]) :]
            except OSError:  # the reader is gone, or the disk is full
                self.on_drop()
                return b""
        return data

    def _let_wait(self, line: bytes) -> None:
        if self._waiting_bytes + len(line) > MAX_WAITING_BYTES:
            self.on_drop()
            return
        self._waiting.append(line)
        self._waiting_bytes += len(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._drain, name="log", daemon=True)
            self._thread.start()

    def _drain(self) -> None:
        """Write what waits, as fast as the reader takes it."""
        poll = self._new_poll()  # a poll object serves one thread at a time
        while True:
            poll.poll()
            with self._lock:
                line = self._waiting.popleft()
                self._waiting_bytes -= len(line)
                if rest := self._write_now(line):
                    self._waiting.appendleft(rest)
                    self._waiting_bytes += len(rest)
                elif not self._waiting:
                    self._thread = None
                    return

    def _new_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return poll


def _ignore() -> None:
    pass


class LogText:
    """A `LogOutput` for writers of text."""

    def __init__(self, output: LogOutput) -> None:
        self._output = output

    def write(self, text: str) -> int:
        """Write text."""
        return self._output.write(text.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Do nothing: lines are written at once if they can be."""
