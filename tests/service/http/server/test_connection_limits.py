"""Limits on one connection and on all of them, against the real process."""

import http.client
import json
import queue
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from service import check_ready
from service.api_keys import new_key
from service.http.server.connections import RESERVED
from tests.service.photos import GREEN, encode, solid
from tests.service.process import Process, ask_on, scraped, wait_until
from tests.service.repository_fixture import write_classifier

PHOTO = encode(solid(GREEN))
HEADER_BYTES = 8192
BODY_BYTES = 100_000
TRICKLE_SECONDS = 0.02
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n"
POST = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_classifier(folder)
    return folder


def started(repository: Path, **environment: str) -> Process:
    process = Process("--model-repository", str(repository), **environment)
    try:
        process.wait_for("model_ready")
    except queue.Empty:
        process.kill()
        raise
    return process


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Process]:
    process = started(
        repository,
        VT_MAX_HEADER_BYTES=str(HEADER_BYTES),
        VT_HEADER_TIMEOUT_SECONDS="0.5",
        VT_MAX_BODY_BYTES=str(BODY_BYTES),
        VT_BODY_TIMEOUT_SECONDS="0.5",
        VT_SEND_TIMEOUT_SECONDS="0.5",
    )
    yield process
    process.kill()


def connected(server: Process) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=20)


def until_closed(sock: socket.socket) -> bytes:
    """All remaining bytes; fails if the server does not close the connection."""
    received = b""
    try:
        while data := sock.recv(65536):
            received += data
    except ConnectionError:
        pass  # it was closed while bytes were under way to it
    return received


def answer(received: bytes) -> tuple[int, str]:
    """The status and the sentence of an error."""
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"content-type: application/json" in head
    assert b"connection: close" in head
    return int(head.split()[1]), json.loads(body)["error"]


def trickle(sock: socket.socket, piece: Callable[[], bytes]) -> bytes:
    """Send a little repeatedly until the server closes the connection; return its response."""
    for _ in range(1000):
        if select.select([sock], [], [], TRICKLE_SECONDS)[0]:
            return until_closed(sock)
        try:
            sock.sendall(piece())
        except ConnectionError:
            return until_closed(sock)
    pytest.fail("the server keeps a connection that trickles")


def read_answer(sock: socket.socket) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(sock)
    response.begin()
    response.read()
    return response


def dropped(server: Process, reason: str) -> float:
    return scraped(server, f'vt_connections_dropped_total{{reason="{reason}"}}')


def test_a_connection_that_sends_nothing_is_closed_without_a_response(server: Process) -> None:
    with connected(server) as sock:
        assert until_closed(sock) == b""
    assert dropped(server, "header_timeout") >= 1


def test_a_header_that_is_never_completed_is_a_408(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(GET + b"X-Slow: ")
        assert answer(until_closed(sock)) == (408, "The headers did not arrive within 0.5 s.")


def test_headers_that_trickle_are_a_408(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(GET)
        status, _ = answer(trickle(sock, lambda: b"X-Slow: 1\r\n"))
        assert status == 408


@pytest.mark.parametrize("piece", [b"\r\n", b"G"])
def test_a_trickle_does_not_keep_an_idle_connection_open(server: Process, piece: bytes) -> None:
    with connected(server) as sock:
        sock.sendall(GET + b"\r\n")
        assert read_answer(sock).status == 200
        pieces = iter([piece])
        trickle(sock, lambda: next(pieces, b"\r\n" if piece == b"\r\n" else b"E"))


TOO_LARGE = {
    "one header": GET + b"X-Large: " + b"a" * HEADER_BYTES + b"\r\n\r\n",
    "many headers": GET + b"X-A: b\r\n" * 1200 + b"\r\n",
    "the path": b"GET /" + b"a" * HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    "a header that never ends": GET + b"X-Large: " + b"a" * HEADER_BYTES,
    "a path that never ends": b"GET /" + b"a" * (HEADER_BYTES + 1),
    "a query": b"GET /v1/models?" + b"a" * HEADER_BYTES + b" HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("case", TOO_LARGE)
def test_headers_that_are_too_large_are_a_431(server: Process, case: str) -> None:
    with connected(server) as sock:
        sock.sendall(TOO_LARGE[case])
        status, sentence = answer(until_closed(sock))
        assert (status, sentence) == (431, "The headers have more than the 8,192 bytes allowed.")


def test_headers_just_within_the_limit_are_accepted(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(GET + b"X-Large: " + b"a" * (HEADER_BYTES - 200) + b"\r\n\r\n")
        assert read_answer(sock).status == 200


ENDLESS = {
    "a trailer": b"1\r\na\r\n0\r\nX-Trailer: ",
    "a chunk's extension": b"1;extension=",
    "a chunk's size": b"1\r\na\r\n" + b"0" * 16,
}


@pytest.mark.parametrize("case", ENDLESS)
def test_an_endless_trailer_extension_or_chunk_size_closes_the_connection(
    server: Process, case: str
) -> None:
    before = dropped(server, "headers_too_large")
    with connected(server) as sock:
        with suppress(ConnectionError):  # more than the server reads at once
            sock.sendall(CHUNKED + ENDLESS[case] + b"0" * 2_000_000)
        until_closed(sock)
    assert dropped(server, "headers_too_large") == before + 1


def expect_continue(sock: socket.socket) -> None:
    """Begin a chunked request; the application reads it when this returns."""
    sock.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
    assert sock.recv(65536).startswith(b"HTTP/1.1 100 ")


def test_too_long_a_chunks_extension_is_a_431(server: Process) -> None:
    with connected(server) as sock:
        expect_continue(sock)
        sock.sendall(b"1;extension=" + b"0" * HEADER_BYTES)
        assert answer(until_closed(sock))[0] == 431


def test_chunks_that_never_end_are_a_413(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(CHUNKED)
        chunk = b"2710\r\n" + bytes(10_000) + b"\r\n"
        for _ in range(BODY_BYTES // 10_000 + 1):
            sock.sendall(chunk)
        status, sentence = answer(until_closed(sock))
        assert (status, sentence) == (413, "The body has more than the 100,000 bytes allowed.")


def test_chunks_that_trickle_are_a_408(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(CHUNKED)
        status, sentence = answer(trickle(sock, lambda: b"1\r\na\r\n"))
        assert (status, sentence) == (408, "The body did not arrive within 0.5 s.")


def test_a_body_that_is_not_read_does_not_keep_the_connection_open(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(GET + b"Content-Length: 90000\r\n\r\n")
        assert read_answer(sock).status == 200
        trickle(sock, lambda: b"a")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS handshake
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
    ],
)
def test_a_request_that_is_not_http_is_a_400(server: Process, garbage: bytes) -> None:
    with connected(server) as sock:
        sock.sendall(garbage)
        assert answer(until_closed(sock)) == (400, "The request is not valid HTTP.")


NO_HOST = "An HTTP/1.1 request needs exactly one Host header."
ENCODING = "The only supported Transfer-Encoding is chunked."
REFUSED_HEADS = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, NO_HOST),
    "two hosts": (GET + b"Host: y\r\n\r\n", 400, NO_HOST),
    "the same host twice": (GET + b"Host: x\r\n\r\n", 400, NO_HOST),
    "two hosts in HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\nHost: y\r\n\r\n", 400, NO_HOST),
    "connect": (
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        501,
        "The method CONNECT is not supported.",
    ),
    **{
        f"transfer encoding {value.decode()}": (
            POST + b"Transfer-Encoding: " + value + b"\r\n\r\n0\r\n\r\n",
            501,
            ENCODING,
        )
        for value in (
            *(b"gzip", b"identity", b"xchunked", b"chunked;q=1", b"", b"gzip, chunked"),
            *(b"chunked, gzip", b"chunked, chunked", b"chunked\r\nTransfer-Encoding: chunked"),
            *(b"gzip\r\nTransfer-Encoding: chunked", b"chunked\r\nTransfer-Encoding: gzip"),
        )
    },
}


@pytest.mark.parametrize("case", REFUSED_HEADS)
@pytest.mark.parametrize("upgrade", [b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n"])
def test_a_head_that_breaks_http_is_refused_and_nothing_after_it_is_read(
    server: Process, case: str, upgrade: bytes
) -> None:
    request, status, sentence = REFUSED_HEADS[case]
    before = dropped(server, "not_http")
    line, rest = request.split(b"\r\n", 1)
    with connected(server) as sock:
        sock.sendall(line + b"\r\n" + upgrade + rest + GET + b"\r\n")
        assert answer(until_closed(sock)) == (status, sentence)
    assert dropped(server, "not_http") == before + 1


def test_unusual_but_valid_heads_are_served(server: Process) -> None:
    for request in (
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
        b"GET http://x/v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        CHUNKED.replace(b"chunked", b"Chunked").replace(
            b"POST /v1/classify", b"GET /v2/health/live"
        ),
    ):
        with connected(server) as sock:
            sock.sendall(request + (b"0\r\n\r\n" if b"hunked" in request else b""))
            assert read_answer(sock).status == 200


MALFORMED = {
    "no chunk at all": b"ZZ\r\n",
    "after a chunk": b"1\r\na\r\nZZ\r\n",
    "a chunk longer than it says": b"1\r\naaaa\r\n",
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("pieces", [1, 2])
def test_a_malformed_chunk_is_a_400(server: Process, case: str, pieces: int) -> None:
    before = dropped(server, "not_http")
    with connected(server) as sock:
        if pieces == 1:
            sock.sendall(CHUNKED + MALFORMED[case])
        else:
            expect_continue(sock)
            sock.sendall(MALFORMED[case])
        assert answer(until_closed(sock)) == (400, "The request is not valid HTTP.")
    assert dropped(server, "not_http") == before + 1
    assert server.ask("POST", "/v1/classify", PHOTO)[0] == 200


def test_a_malformed_chunk_after_the_response_gets_no_second_one(server: Process) -> None:
    with connected(server) as sock:
        sock.sendall(CHUNKED.replace(b"POST /v1/classify", b"GET /v2/health/live"))
        first = sock.recv(65536)
        assert first.startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"ZZ\r\n")
        assert b"HTTP/1.1" not in until_closed(sock)


def test_a_malformed_chunk_after_another_request_gets_no_response_for_either(
    server: Process,
) -> None:
    waiting = POST + b"Content-Length: 1\r\n\r\na"
    with connected(server) as sock:
        sock.sendall(waiting + CHUNKED + b"ZZ\r\n")
        assert until_closed(sock) == b""


def test_a_connection_whose_answers_are_not_read_is_dropped(server: Process) -> None:
    before = dropped(server, "send_timeout")
    with connected(server) as sock:
        sock.settimeout(TRICKLE_SECONDS)
        request = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
        for _ in range(1000):
            with suppress(TimeoutError, ConnectionError):  # no more fits in
                sock.sendall(request * 20)
            if dropped(server, "send_timeout") > before:
                return
    pytest.fail("the server keeps answers for a client that reads none")


def test_the_server_still_serves_after_all_of_these(server: Process) -> None:
    assert server.ask("POST", "/v1/classify", PHOTO)[0] == 200


def test_too_many_connections_are_refused_until_one_ends(repository: Path) -> None:
    process = started(repository, VT_MAX_CONNECTIONS="2")
    try:
        first, second = (connected(process) for _ in range(2))
        for sock in (first, second):
            sock.sendall(GET + b"\r\n")
            assert read_answer(sock).status == 200
            sock.sendall(POST + b"Content-Length: 10\r\n\r\n")  # under way: it stays open
        with connected(process) as third:
            third.sendall(POST)
            third.sendall(b"Content-Length: 10\r\n\r\n")
            status, sentence = answer(until_closed(third))
        assert (status, sentence.partition(";")[0]) == (503, "The server has too many connections")
        first.close()
        wait_until(lambda: not process_is_full(process))
        second.close()
    finally:
        process.kill()


def test_idle_connections_make_room_for_the_probes(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = started(repository, VT_MAX_CONNECTIONS="2", VT_METRICS_PORT="0")
    try:
        kept = process.connect()
        assert ask_on(kept, "GET", "/v2/health/live") == (200, {})
        with connected(process) as half, connected(process):
            assert kept.sock.recv(1) == b""  # it was idle longest
            half.sendall(GET)
            for _ in range(3):
                assert process.ask("GET", "/v2/health/live")[0] == 200
            monkeypatch.setenv("VT_PORT", str(process.port))
            assert check_ready.main() == 0
            assert until_closed(half) == b""
        process.port = process.addresses["metrics_port"]
        assert dropped(process, "idle") >= 2
        assert dropped(process, "too_many") == 0
        process.signal()
        assert process.end() == 0
        (line,) = [line for line in process.lines if line["event"] == "connections_full"]
        assert (line["level"], line["max_connections"]) == ("warning", 2)
    finally:
        kept.close()
        process.kill()


def test_a_full_server_still_answers_probes_and_scrapes(repository: Path) -> None:
    process = started(repository, VT_MAX_CONNECTIONS="2")
    try:
        with ExitStack() as sockets:
            for _ in range(2):
                slow = sockets.enter_context(connected(process))
                slow.sendall(POST + b"Content-Length: 10\r\n\r\n1")
            for _ in range(RESERVED + 5):  # they trickle their headers
                sockets.enter_context(connected(process)).sendall(GET)
            wait_until(lambda: scraped(process, "vt_requests_receiving") == 2)
            for _ in range(3):
                assert process.ask("GET", "/v2/health/live")[0] == 200
                assert process.ask("GET", "/v2/health/ready")[0] == 200
            status, body = process.ask("POST", "/v1/classify", PHOTO)
            assert (status, body["error"][:31]) == (503, "The server has too many connect")
        wait_until(lambda: process.ask("POST", "/v1/classify", PHOTO)[0] == 200)
    finally:
        process.kill()


def test_the_metrics_port_has_its_own_connections(repository: Path) -> None:
    process = started(repository, VT_MAX_CONNECTIONS="2", VT_METRICS_PORT="0")
    try:
        busy = [connected(process) for _ in range(2)]
        for sock in busy:
            sock.sendall(POST + b"Content-Length: 10\r\n\r\n")
        wait_until(lambda: process_is_full(process))
        process.port = process.addresses["metrics_port"]
        assert scraped(process, "vt_requests_receiving") == 2
        for sock in busy:
            sock.close()
    finally:
        process.kill()


def test_a_low_limit_of_open_files_lowers_the_connections(repository: Path) -> None:
    process = Process(
        *("--model-repository", str(repository)),
        before=("sh", "-c", 'ulimit -n 200 && exec "$@"', "sh"),
    )
    try:
        process.wait_for("connections_lowered")
        with ExitStack() as sockets:
            for _ in range(300):
                sockets.enter_context(connected(process))
            assert process.ask("GET", "/v2/health/live")[0] == 200
            assert dropped(process, "idle") > 100
    finally:
        process.kill()


def process_is_full(process: Process) -> bool:
    try:
        return process.ask("GET", "/v1/models")[0] == 503
    except ConnectionError:  # refused before the request arrived
        return True


def test_keys_are_reloaded_and_never_logged(repository: Path, tmp_path: Path) -> None:
    (old, old_lines), (new, new_lines) = new_key("old", ["predict"]), new_key("new", ["predict"])
    path = tmp_path / "keys.toml"
    path.write_text(old_lines)
    process = started(repository, VT_API_KEYS_FILE=str(path), VT_LOG_LEVEL="debug")

    def ask(**headers: str) -> int:
        connection = process.connect()
        connection.request("POST", "/v1/classify", PHOTO, headers)
        status = connection.getresponse().status
        connection.close()
        return status

    try:
        bearers = [{"Authorization": f"Bearer {token}"} for token in (old, new)]
        assert [ask(**each) for each in bearers] == [200, 401]
        path.write_text(new_lines)
        process.wait_for("api_keys_reloaded")
        assert [ask(**each) for each in bearers] == [401, 200]
        assert ask(**{"X-API-Key": new, "X-Request-Timeout-Ms": "x"}) == 400
        assert process.ask("GET", "/nothing")[0] == 404
        process.signal()
        assert process.end() == 0
        logged = json.dumps(process.lines)
        assert '"key": "new"' in logged
        assert not any(token in logged for token in (old, new))
    finally:
        process.kill()
