"""A log that cannot be written disturbs nothing: a reader that left, blocks, or has a full disk."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.service.photos import GREEN, encode, solid
from tests.service.process import ROOT, wait_until
from tests.service.repository_fixture import write_classifier

PHOTO = encode(solid(GREEN))


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_classifier(folder)
    return folder


class Server:
    """A server whose log nobody reads, and requests to it."""

    def __init__(self, repository: Path, log: int) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.key_file = repository / "local.key"
        variables = {**os.environ, "VT_LOCAL_KEY_FILE": str(self.key_file)}
        command = [sys.executable, "-m", "service", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--model-repository", str(repository)], cwd=ROOT, stderr=log, env=variables
        )

    def ask(self, method: str, url: str, body: bytes | None = None, **headers: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, url, body, headers)
            response = connection.getresponse()
            self.body = response.read()
            return response.status
        except OSError:
            return 0
        finally:
            connection.close()

    def is_ready(self) -> bool:
        return self.ask("GET", "/v2/health/ready") == 200


@contextmanager
def serving(repository: Path, log: int) -> Iterator[Server]:
    server = Server(repository, log)
    try:
        wait_until(server.is_ready)
        yield server
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(20) == 0
    finally:
        server.process.kill()
        server.process.wait(20)


def unload_and_load(server: Server) -> list[int]:
    key = {"X-API-Key": server.key_file.read_text()}
    path = "/v2/repository/models/colour/"
    return [server.ask("POST", path + what, **key) for what in ("unload", "load")]


def test_a_reader_that_leaves_after_a_line_changes_nothing(repository: Path) -> None:
    reader, writer = os.pipe()
    with serving(repository, writer) as server:
        os.close(writer)
        with os.fdopen(reader) as log:
            assert json.loads(log.readline())["level"] == "info"
        assert server.ask("POST", "/v1/classify", PHOTO) == 200
        assert unload_and_load(server) == [200, 200]
        assert server.ask("GET", "/metrics") == 200
        metrics = server.body.decode().splitlines()
        (dropped,) = (each for each in metrics if each.startswith("vt_log_lines_dropped_total "))
        assert float(dropped.split()[1]) >= 3


def test_a_full_disk_changes_nothing(repository: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with serving(repository, full) as server:
        assert server.ask("POST", "/v1/classify", PHOTO) == 200
        assert unload_and_load(server) == [200, 200]
    os.close(full)


def test_a_reader_that_blocks_stops_no_request(repository: Path) -> None:
    reader, writer = os.pipe()
    with serving(repository, writer) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        for _ in range(400):  # the pipe takes the lines of about 250
            connection.request("GET", "/" + "x" * 10)
            assert connection.getresponse().read()
        connection.close()
        assert server.ask("POST", "/v1/classify", PHOTO) == 200
    os.close(writer)
    os.close(reader)
