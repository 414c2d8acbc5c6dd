"""`/metrics` on a port of its own, and under Triton's names."""

import http.client
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import httpx

from tests.service.conftest import PREDICT, Start
from tests.service.http.server.test_server import running
from tests.service.photos import GREEN, encode, solid
from tests.service.test_load import classify

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


async def scraped(http: httpx.AsyncClient) -> dict[str, float]:
    """Triton's numbers of the classifier."""
    text = (await http.get("/metrics")).text
    found = re.findall(
        r'^(nv_\w+)\{model="colour",(?:reason="(\w+)",)?version="1"\} (\S+)$', text, re.MULTILINE
    )
    return {f"{name}{reason and '/'}{reason}": float(value) for name, reason, value in found}


async def test_tritons_names_count_what_triton_counts(start: Start) -> None:
    async with start(metrics_triton_names=True, max_queue_size=1) as service:
        zero = await scraped(service.http)
        assert set(zero.values()) == {0.0}
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        assert (await classify(service)).status_code == 429
        assert (await classify(service, content=b"broken")).status_code == 429
        assert (await scraped(service.http))["nv_inference_pending_request_count"] == 1
        gate.open()
        assert (await first).status_code == 200
        assert (await classify(service, content=b"broken")).status_code == 415
        found = await scraped(service.http)
    durations = {name: found.pop(name) for name in list(found) if name.endswith("_us")}
    assert found == {
        "nv_inference_request_success": 1,
        "nv_inference_request_failure/REJECTED": 2,
        "nv_inference_request_failure/CANCELED": 0,
        "nv_inference_request_failure/BACKEND": 0,
        "nv_inference_request_failure/OTHER": 1,
        "nv_inference_count": 1,
        "nv_inference_exec_count": 1,
        "nv_inference_pending_request_count": 0,
    }
    whole = durations.pop("nv_inference_request_duration_us")
    assert len(durations) == 4
    assert 0 < sum(durations.values()) <= whole


async def test_tritons_names_are_not_there_unless_asked_for(start: Start) -> None:
    async with start() as service:
        assert await scraped(service.http) == {}
