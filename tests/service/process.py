"""A running server process, and what tests ask of it."""

import http.client
import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
WAIT_SECONDS = 20.0
"""A safety net: no wait of a test takes this long unless something is wrong."""


class Process:
    """A running `python -m service`; `before` precedes the command."""

    def __init__(self, *arguments: str, before: Sequence[str] = (), **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.startswith("VT_")}
        self._folder = tempfile.TemporaryDirectory()
        self.local_key_file = Path(self._folder.name) / "local.key"
        clean["VT_FRONTENDS"] = "0"  # on any machine
        clean["VT_LOCAL_KEY_FILE"] = str(self.local_key_file)
        self.process = subprocess.Popen(
            [*before, sys.executable, "-W", "error", "-m", "service", "--port", "0", *arguments],
            cwd=ROOT,
            env={**clean, **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines: list[dict] = []
        self._unread: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        try:
            self.addresses = self.wait_for("listening")
        except queue.Empty:
            self.kill()
            raise
        self.port = self.addresses["port"]

    def _read(self) -> None:
        for line in self.process.stderr:
            self._unread.put(line)

    def wait_for(self, event: str) -> dict:
        """Read the log until this event; fail if the log is silent for a minute."""
        while not self.lines or self.lines[-1]["event"] != event:
            self.lines.append(json.loads(self._unread.get(timeout=60)))
        return self.lines.pop()

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_SECONDS)

    def ask(self, method: str, url: str, body: bytes | None = None) -> tuple[int, dict]:
        connection = self.connect()
        try:
            connection.request(method, url, body)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def end(self) -> int:
        """Wait for the process; return its exit status."""
        status = self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        while not self._unread.empty():
            self.lines.append(json.loads(self._unread.get_nowait()))
        return status

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_SECONDS)
        self._reader.join(WAIT_SECONDS)
        self.process.stderr.close()
        self._folder.cleanup()


@contextmanager
def running(repository: Path, **environment: str) -> Iterator[Process]:
    """A process that serves both models of the repository."""
    process = Process("--model-repository", str(repository), **environment)
    try:
        for _ in range(2):
            process.wait_for("model_ready")
        yield process
    finally:
        process.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    """Check again and again; fail if the condition never becomes true."""
    end = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition never became true"


def scraped(server: Process, name: str) -> float:
    """The value of a metric; 0 if it is absent."""
    connection = server.connect()
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    found = re.search(rf"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def ask_on(
    connection: http.client.HTTPConnection, method: str, url: str, body: bytes | None = None
) -> tuple[int, dict[str, str]]:
    """Send a request on an open connection; return the status and the headers on what follows."""
    connection.request(method, url, body)
    response = connection.getresponse()
    response.read()
    told = {"connection", "retry-after"}
    return response.status, {k: v for k, v in response.getheaders() if k in told}
