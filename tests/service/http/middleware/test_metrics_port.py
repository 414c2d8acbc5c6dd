"""`/metrics` on a port of its own."""

import http.client
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from tests.service.conftest import PREDICT
from tests.service.photos import GREEN, encode, solid
from tests.service.process import running

PHOTO = encode(solid(GREEN))


def get(port: int, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", path, headers=dict(headers))
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_the_metrics_own_port_answers_metrics_and_the_other_everything_else(
    repository: Path,
) -> None:
    with running(repository, VT_METRICS_PORT="0") as server:
        own = server.addresses["metrics_port"]
        assert server.ask("POST", "/v1/classify", PHOTO)[0] == 200
        status, text = get(own, "/metrics")
        assert status == 200
        assert 'http_requests_total{method="POST",route="/v1/classify",status="200"} 1.0' in text
        assert 'route="/metrics"' in get(own, "/metrics")[1]
        for port, path in ((own, "/v1/models"), (own, "/docs"), (server.port, "/metrics")):
            status, text = get(port, path)
            assert status == 404
            assert text.startswith('{"error":')
        assert "GET /metrics" not in server.ask("GET", "/")[1]


def test_the_metrics_own_port_asks_for_a_key_where_metadata_need_one(
    repository: Path, keys_file: Path
) -> None:
    environment = {"VT_API_KEYS_FILE": str(keys_file), "VT_REQUIRE_KEY_FOR_METADATA": "true"}
    with running(repository, VT_METRICS_PORT="0", **environment) as server:
        own = server.addresses["metrics_port"]
        assert get(own, "/metrics")[0] == 401
        status, text = get(own, "/metrics", {"X-API-Key": PREDICT})
        assert status == 200
        assert 'http_requests_total{method="GET",route="/metrics",status="401"} 1.0' in text
