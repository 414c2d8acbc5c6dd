"""The real process, on a free port of the loopback."""

import gc
import http.client
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI

from service import __version__
from service.__main__ import main
from tests.service.photos import GREEN, encode, noise, quarters, solid
from tests.service.process import ROOT, Process, ask_on, running, scraped, wait_until
from tests.service.repository_fixture import (
    classification_config,
    looping_graph,
    write_classifier,
    write_entry,
)

PHOTO = encode(solid(GREEN), "JPEG")
NEVER_ENDS = 1 << 62


def test_a_process_serves_from_start_to_sigterm(repository: Path) -> None:
    with running(repository) as server:
        assert server.ask("GET", "/v2/health/ready") == (200, {"ready": True})
        status, body = server.ask("POST", "/v1/classify?top_k=1", PHOTO)
        assert status == 200
        assert body["predictions"][0]["classes"][0]["label"] == "green"
        status, body = server.ask("POST", "/v1/segment?mask=none", encode(quarters()))
        assert [area["label"] for area in body["predictions"][0]["classes"]] == [
            "red",
            "green",
            "blue",
        ]
        assert server.ask("GET", "/nothing")[0] == 404
        server.signal()
        assert server.end() == 0
        requests = [line for line in server.lines if line["event"] == "request"]
        assert [line["status"] for line in requests] == [200, 200, 404]
        assert server.lines[-1]["event"] == "stopped"


def test_the_address_of_all_networks_of_ipv6_serves_ipv4_too(tmp_path: Path) -> None:
    write_classifier(tmp_path)
    server = Process("--model-repository", str(tmp_path), "--host", "::")
    try:
        assert server.ask("GET", "/v2/health/live")[0] == 200  # over 127.0.0.1
        connection = http.client.HTTPConnection("::1", server.port, timeout=20)
        connection.request("GET", "/v2/health/live")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.kill()


@pytest.mark.parametrize(("seconds", "stays_open"), [("0.2", False), ("75", True)])
def test_an_idle_connection_is_closed_after_the_configured_time(
    tmp_path: Path, seconds: str, stays_open: bool
) -> None:
    write_classifier(tmp_path)
    variables = {"VT_KEEP_ALIVE_TIMEOUT_SECONDS": seconds}
    server = Process("--model-repository", str(tmp_path), **variables)
    try:
        kept = server.connect()
        ask_on(kept, "GET", "/v2/health/live")
        kept.sock.settimeout(1 if stays_open else 20)
        if stays_open:
            with pytest.raises(TimeoutError):
                kept.sock.recv(1)
            assert ask_on(kept, "GET", "/v2/health/live")[0] == 200
        else:
            assert kept.sock.recv(1) == b""
        kept.close()
    finally:
        server.kill()


def send_slowly(server: Process, body: bytes) -> tuple[socket.socket, int]:
    """Begin a request; the caller sends its second half."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    half = len(body) // 2
    head = f"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    sock.sendall(head.encode() + body[:half])
    return sock, half


def wait_until_received(server: Process, requests: int) -> None:
    """Wait until the server receives the bodies of this many requests."""
    wait_until(lambda: scraped(server, "vt_requests_receiving") == requests)


CLOSE = {"connection": "close"}


def test_a_drain_serves_open_connections_and_rejects_new_ones(repository: Path) -> None:
    with running(repository) as server:
        sock, half = send_slowly(server, PHOTO)
        wait_until_received(server, 1)
        kept = [server.connect() for _ in range(2)]
        for connection in kept:
            assert ask_on(connection, "GET", "/v2/health/ready") == (200, {})
        server.signal()
        server.wait_for("draining")
        assert ask_on(kept[0], "POST", "/v1/classify", PHOTO) == (200, CLOSE)
        assert ask_on(kept[1], "GET", "/v2/health/ready") == (503, CLOSE | {"retry-after": "1"})
        assert [connection.sock for connection in kept] == [None, None]  # one answer, no more
        assert server.ask("GET", "/v2/health/live")[0] == 200
        new = server.connect()
        refused = ask_on(new, "POST", "/v1/classify", PHOTO)
        assert refused == (503, CLOSE | {"retry-after": "1"})
        sock.sendall(PHOTO[half:])
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        sock.close()
        assert server.end() == 0


def test_an_idle_connection_does_not_delay_the_drain(repository: Path) -> None:
    with running(repository) as server:
        kept = server.connect()
        assert ask_on(kept, "GET", "/v2/health/live") == (200, {})
        server.signal()
        assert server.end() == 0
        assert kept.sock.recv(1) == b""
        kept.close()


def failures(server: Process) -> list[str]:
    return [line["event"] for line in server.lines if line["level"] == "error"]


def test_requests_that_outlast_the_drain_get_503(repository: Path) -> None:
    with running(repository, VT_DRAIN_TIMEOUT_SECONDS="0.2") as server:
        sock, _ = send_slowly(server, PHOTO)
        wait_until_received(server, 1)
        server.signal()
        head = sock.recv(65536).lower()
        assert head.startswith(b"http/1.1 503")
        assert b"\r\nconnection: close\r\n" in head
        assert b"\r\nretry-after: 1\r\n" in head
        assert server.end() == 0  # although the client neither sends the rest nor disconnects
        sock.close()
        assert failures(server) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_the_process_without_an_error(
    repository: Path, number: signal.Signals
) -> None:
    with running(repository) as server:
        sock, _ = send_slowly(server, PHOTO)
        wait_until_received(server, 1)
        server.signal(number)
        server.wait_for("draining")
        server.signal(number)
        assert sock.recv(65536).startswith(b"HTTP/1.1 503")
        assert server.end() == 0
        sock.close()
        assert failures(server) == []
        assert server.lines[-1]["event"] == "stopped"


def test_slow_uploads_do_not_block_other_requests(repository: Path) -> None:
    with running(repository, VT_MAX_CONCURRENT_REQUESTS="1") as server:
        slow = [send_slowly(server, PHOTO) for _ in range(3)]
        wait_until_received(server, 3)
        assert server.ask("POST", "/v1/classify", PHOTO)[0] == 200
        for sock, half in slow:
            sock.sendall(PHOTO[half:])
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            sock.close()


def test_the_memory_of_all_bodies_is_bounded(repository: Path) -> None:
    environment = {"VT_MAX_CONCURRENT_REQUESTS": "2", "VT_MAX_BODY_BYTES": str(len(PHOTO))}
    with running(repository, **environment) as server:
        slow = [send_slowly(server, PHOTO) for _ in range(4)]  # half of it each
        wait_until_received(server, 4)
        assert server.ask("POST", "/v1/classify", PHOTO)[0] == 429
        for sock, _ in slow[:2]:
            sock.close()
        wait_until_received(server, 2)
        assert server.ask("POST", "/v1/classify", PHOTO)[0] == 200
        for sock, _ in slow[2:]:
            sock.close()


def events_after_a_signal_during_the_self_test(folder: Path, times: int) -> list[str]:
    """The events of a server whose model loops this often; its exit status is 0."""
    write_entry(folder, classification_config("slow"), looping_graph(times))
    server = Process("--model-repository", str(folder), VT_LOG_LEVEL="debug")
    try:
        server.wait_for("self_test")
        server.signal()
        assert server.end() == 0
    finally:
        server.kill()
    return [line["event"] for line in server.lines]


def test_a_signal_during_a_self_test_ends_the_process(tmp_path: Path) -> None:
    events = events_after_a_signal_during_the_self_test(tmp_path, 1_500_000)
    assert events[-1] == "stopped"


def test_a_signal_during_a_self_test_that_never_ends_leaves_its_thread(tmp_path: Path) -> None:
    events = events_after_a_signal_during_the_self_test(tmp_path, NEVER_ENDS)
    assert events[-2:] == ["threads_left", "stopped"]


def test_a_client_that_sends_too_much_receives_the_413(repository: Path) -> None:
    with running(repository, VT_MAX_BODY_BYTES="1000") as server:
        assert server.ask("POST", "/v1/classify", bytes(3_000_000))[0] == 413

        def chunks() -> Iterator[bytes]:
            for _ in range(300):
                yield bytes(10_000)

        connection = server.connect()
        connection.request("POST", "/v1/classify", chunks(), encode_chunked=True)
        response = connection.getresponse()
        assert (response.status, response.headers["connection"]) == (413, "close")
        connection.close()


def test_a_refused_small_body_keeps_the_connection(repository: Path) -> None:
    with running(repository) as server:
        connection = server.connect()
        for status in (404, 200, 404):
            url = "/v1/classify" if status == 200 else "/v1/classify?model=other"
            connection.request("POST", url, PHOTO)
            response = connection.getresponse()
            response.read()
            assert response.status == status
        connection.close()


def test_concurrent_requests_get_correct_answers(repository: Path) -> None:
    photos = [encode(noise(120, 90, seed), "PNG") for seed in range(6)]
    with running(repository) as server:
        expected = [server.ask("POST", "/v1/segment?mask=rle", photo) for photo in photos]
        wrong: list[int] = []

        def client(offset: int) -> None:
            for turn in range(12):
                at = (offset + turn) % len(photos)
                if server.ask("POST", "/v1/segment?mask=rle", photos[at]) != expected[at]:
                    wrong.append(at)

        threads = [threading.Thread(target=client, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        assert wrong == []
        assert {status for status, _ in expected} == {200}


CANNOT_START = {
    "port out of range": (["--port", "99999"], {}, "VT_PORT"),
    "port not a number": ([], {"VT_PORT": "x"}, "VT_PORT"),
    "no repository": (["--model-repository", "/no/where"], {}, "model repository /no/where"),
    "no such host": (["--host", "256.0.0.1", "--port", "0"], {}, "Cannot listen on 256.0.0.1"),
}


@pytest.mark.usefixtures("restored_log")
@pytest.mark.parametrize("case", CANNOT_START)
def test_a_failed_start_is_reported_in_one_line_with_exit_status_2(
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    case: str,
) -> None:
    arguments, environment, sentence = CANNOT_START[case]
    for name, value in {"VT_MODEL_REPOSITORY": str(repository), **environment}.items():
        monkeypatch.setenv(name, value)
    assert main(arguments) == 2
    message = capsys.readouterr().err
    assert re.fullmatch(rf"vt-serve: .*{re.escape(sentence)}.*\n", message)


@pytest.mark.usefixtures("restored_log")
def test_the_application_is_frozen_out_of_garbage_collection_before_models_load(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = []

    class Recording:
        def __init__(self, app: FastAPI, *_: object) -> None:
            self.app = app

        def run(self, **_: object) -> None:
            frozen.append(gc.get_freeze_count())
            assert not any(each is self.app for each in gc.get_objects())

    monkeypatch.setattr("service.http.server.server.Server", Recording)
    try:
        assert main(["--port", "0", "--model-repository", str(repository)]) == 0
    finally:
        gc.unfreeze()
    assert len(frozen) == 1
    assert frozen[0] > 0


@pytest.mark.usefixtures("restored_log")
@pytest.mark.parametrize(
    ("arguments", "log_format", "is_terminal", "greets"),
    [
        ((), "auto", True, "http://127.0.0.1:{port}/"),
        (("--host", "0.0.0.0"), "console", True, "http://127.0.0.1:{port}/"),  # noqa: S104
        ((), "json", True, None),
        ((), "console", False, None),
    ],
)
def test_only_a_terminal_is_greeted(
    *,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    log_format: str,
    is_terminal: bool,
    greets: str | None,
) -> None:
    ports = []

    class Recording:
        def __init__(self, *_: object) -> None: ...

        def run(self, sockets: list[socket.socket]) -> None:
            ports.append(sockets[0].getsockname()[1])

    monkeypatch.setattr("service.http.server.server.Server", Recording)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: is_terminal)
    monkeypatch.setenv("VT_LOG_FORMAT", log_format)
    try:
        assert main(["--port", "0", "--model-repository", str(repository), *arguments]) == 0
    finally:
        gc.unfreeze()
    printed = capsys.readouterr().err
    if greets is None:
        assert "Press Ctrl+C" not in printed
        assert "listening" in printed
    else:
        address = greets.format(port=ports[0])
        for line in (f"vt-serve {__version__}", address, f"{address}docs", f"{address}metrics"):
            assert line in printed


@pytest.mark.usefixtures("restored_log")
def test_a_port_in_use_is_reported_with_exit_status_2(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--model-repository", str(repository)]) == 2
    assert "Address already in use" in capsys.readouterr().err


SIGNALLED_WHILE_IT_IMPORTS = """
import os, runpy, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "service.app":
            os.kill(os.getpid(), {signal})

sys.meta_path.insert(0, Finder())
runpy.run_module("service", run_name="__main__")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_while_it_still_imports(number: signal.Signals) -> None:
    code = SIGNALLED_WHILE_IT_IMPORTS.format(signal=int(number))
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


@pytest.mark.usefixtures("restored_log")
def test_the_command_line_leaves_the_signals_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--port", "x"]) == 2
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_version_flag_prints_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    assert re.fullmatch(r"vt-serve \d+\.\d+\.\d+\n", capsys.readouterr().out)
