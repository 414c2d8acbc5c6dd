"""A request that asks for an upgrade is answered as usual, and its body is never a request."""

import http.client
import itertools
import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.nginx import nginx
from tests.service.photos import GREEN, encode, solid
from tests.service.process import Process
from tests.service.repository_fixture import write_classifier
from tests.tools import needs

PHOTO = encode(solid(GREEN), "JPEG")
UNLOAD = (
    b"POST /v2/repository/models/colour/unload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
)
SMUGGLED = b"\r\n" * 20_000 + UNLOAD * 3

UPGRADES = {
    "none": b"",
    "h2c": b"Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    "websocket": b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
    "made up": b"Upgrade: vt/1\r\n",
    "several in one": b"Upgrade: h2c, websocket, TLS/1.0\r\n",
    "several headers": b"Upgrade: h2c\r\nupgrade: websocket\r\n",
    "empty": b"Upgrade:\r\n",
}
CONNECTIONS = {
    "no connection header": b"",
    "connection upgrade": b"Connection: Upgrade\r\n",
    "a list": b"Connection: keep-alive, upgrade, HTTP2-Settings\r\n",
}
BODIES = {"a photo": (PHOTO, 200), "requests": (SMUGGLED, 415)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("weights")
    write_classifier(folder)
    process = Process("--model-repository", str(folder))
    process.wait_for("model_ready")
    yield process
    process.kill()


def request(body: bytes, extra: bytes, *, chunked: bool = False) -> bytes:
    head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n" + extra
    if chunked:
        half = len(body) // 2
        pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:half], body[half:]) if p)
        return head + b"Transfer-Encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def answers(sock: socket.socket, count: int) -> list[tuple[int, dict]]:
    """Read this many responses, and make sure that no more follow."""
    reader = sock.makefile("rb")
    found = []
    for _ in range(count):
        status = int(reader.readline().split()[1])
        length = int(http.client.parse_headers(reader)["Content-Length"])
        found.append((status, json.loads(reader.read(length))))
    sock.sendall(b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    rest = reader.read()
    assert rest.count(b"HTTP/1.1 ") == 1
    assert rest.startswith(b"HTTP/1.1 404 ")
    return found


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("connection", CONNECTIONS)
@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("pieces", ["whole", "halves", "bytes of the head"])
def test_each_request_gets_one_answer_and_its_body_is_never_read_as_a_request(
    server: Process, upgrade: str, connection: str, body: str, pieces: str
) -> None:
    content, status = BODIES[body]
    sent = request(content, UPGRADES[upgrade] + CONNECTIONS[connection])
    head = sent.index(b"\r\n\r\n") + 4
    cuts = {"whole": [], "halves": [head - 9, head + 7], "bytes of the head": range(1, head + 2)}
    edges = [0, *cuts[pieces], len(sent)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start, end in itertools.pairwise(edges):
            sock.sendall(sent[start:end])
        ((found, answer),) = answers(sock, 1)
    assert found == status
    if status == 200:
        assert answer["predictions"][0]["classes"][0]["label"] == "green"
    assert server.ask("GET", "/v2/models/colour/ready")[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_pipelined_requests_that_ask_for_an_upgrade_are_answered_in_order(
    server: Process, chunked: bool
) -> None:
    extra = UPGRADES["h2c"] + CONNECTIONS["connection upgrade"]
    wanted = [BODIES["a photo"], BODIES["requests"], BODIES["a photo"]] * 3
    plain = request(PHOTO, b"")
    sent = b"".join(request(body, extra, chunked=chunked) + plain for body, _ in wanted)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(sent)
        found = [status for status, _ in answers(sock, 2 * len(wanted))]
    assert found == [each for _, status in wanted for each in (status, 200)]


def test_an_upgrade_without_a_body_is_a_plain_request(server: Process) -> None:
    extra = UPGRADES["websocket"] + CONNECTIONS["connection upgrade"]
    get = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n" + extra + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(get * 3)
        assert [status for status, _ in answers(sock, 3)] == [200] * 3


def test_an_upgrade_with_expect_continue_is_answered_once(server: Process) -> None:
    extra = UPGRADES["h2c"] + CONNECTIONS["connection upgrade"] + b"Expect: 100-continue\r\n"
    sent = request(PHOTO, extra)
    head = sent.index(b"\r\n\r\n") + 4
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(sent[:head])
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(sent[head:])
        assert [status for status, _ in answers(sock, 1)] == [200]


JAVA = """
import java.net.URI;
import java.net.http.*;
import java.nio.file.Path;

class Predict {
    public static void main(String[] args) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int n = 0; n < 3; n++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(args[0]))
                .POST(HttpRequest.BodyPublishers.ofFile(Path.of(args[1]))).build();
            HttpResponse<String> response =
                client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.statusCode() + " " + response.body());
        }
    }
}
"""


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.jpg"
    path.write_bytes(PHOTO)
    return path


def ran(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@needs("java")
def test_javas_client_predicts_with_its_defaults(
    server: Process, photo: Path, tmp_path: Path
) -> None:
    source = tmp_path / "Predict.java"
    source.write_text(JAVA)
    output = ran("java", str(source), f"http://127.0.0.1:{server.port}/v1/classify", str(photo))
    lines = output.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("200 ") and '"green"' in line for line in lines)


@needs("curl")
def test_curl_predicts_with_http2_asked_for(server: Process, photo: Path) -> None:
    url = f"http://127.0.0.1:{server.port}/v1/classify"
    format_ = "\n%{http_code} %{http_version}"
    output = ran("curl", "-sS", "--http2", "--data-binary", f"@{photo}", "-w", format_, url)
    body, _, last = output.rpartition("\n")
    assert last == "200 1.1"
    assert json.loads(body)["predictions"][0]["classes"][0]["label"] == "green"


LOCATIONS = """
        location /v2/repository/ {{ deny all; }}
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
        location /open/ {{ proxy_pass http://127.0.0.1:{upstream}/; }}
"""


@pytest.fixture
def proxy(server: Process, tmp_path: Path) -> Iterator[int]:
    """The port of nginx in front of the server, with the usual snippet for WebSockets."""
    with nginx(tmp_path, LOCATIONS.format(upstream=server.port)) as port:
        yield port


def ask_proxy(port: int, method: str, path: str, body: bytes, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


@needs("nginx")
def test_nothing_is_smuggled_past_a_proxy_that_passes_upgrades_on(
    server: Process, proxy: int
) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "h2c"}
    assert ask_proxy(proxy, "POST", "/v1/classify", PHOTO, headers) == 200
    for _ in range(3):
        assert ask_proxy(proxy, "POST", "/v1/classify", SMUGGLED, headers) == 415
    unload = "/v2/repository/models/colour/unload"
    assert ask_proxy(proxy, "POST", unload, b"", headers) == 403
    assert server.ask("GET", "/v2/models/colour/ready")[0] == 200


@needs("nginx")
def test_a_request_through_a_proxy_that_adds_no_header_is_not_local(
    server: Process, proxy: int
) -> None:
    unload = "/open/v2/repository/models/colour/unload"
    assert ask_proxy(proxy, "POST", unload, b"", {}) == 403
    assert server.ask("GET", "/v2/models/colour/ready")[0] == 200


def test_the_servers_own_user_changes_models_with_the_local_key(server: Process) -> None:
    assert server.local_key_file.stat().st_mode & 0o777 == 0o600
    load = "/v2/repository/models/colour/load"
    headers = {"X-API-Key": server.local_key_file.read_text()}
    assert ask_proxy(server.port, "POST", load, b"", headers) == 200
    assert ask_proxy(server.port, "POST", load, b"", {}) == 403
