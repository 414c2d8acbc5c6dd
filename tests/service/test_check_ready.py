import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from service.check_ready import main


class Service(BaseHTTPRequestHandler):
    """Answers like `/v2/health/ready`, with the status that a test sets."""

    def do_GET(self) -> None:
        status = self.server.status if self.path == "/v2/health/ready" else 404
        self.send_response(status)
        self.end_headers()
        if status != 200:
            self.wfile.write(b'{"error": "Not every model serves."}')

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Service) as server:
        monkeypatch.setenv("VT_PORT", str(server.server_port))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join(20)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])  # noqa: S104
def test_a_ready_server_passes(
    service: HTTPServer, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv("VT_HOST", host)
    service.status = 200
    assert main() == 0


def test_a_server_that_is_not_ready_fails_with_its_reason(
    service: HTTPServer, capsys: pytest.CaptureFixture[str]
) -> None:
    service.status = 503
    assert main() == 1
    assert capsys.readouterr().err == 'not ready: {"error": "Not every model serves."}\n'


def test_proxies_from_the_environment_are_ignored(
    service: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    service.status = 200
    assert main() == 0


def test_a_refused_connection_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("VT_PORT", str(port))
    assert main() == 1
    assert "refused" in capsys.readouterr().err


def test_an_invalid_setting_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VT_PORT", "http")
    assert main() == 1
    assert "VT_PORT" in capsys.readouterr().err
