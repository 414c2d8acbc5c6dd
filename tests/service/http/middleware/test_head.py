"""HEAD is answered like GET, without the body."""

from pathlib import Path

import httpx
import pytest

from tests.service.conftest import Running, Start
from tests.service.process import running

CHANGING = {"x-request-id", "date"}


def headers_of(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if name not in CHANGING}


async def assert_alike(http: httpx.AsyncClient, url: str) -> httpx.Response:
    got, head = await http.get(url), await http.head(url)
    assert (head.status_code, head.content) == (got.status_code, b""), url
    assert headers_of(head) == headers_of(got), url
    assert "content-length" in head.headers, url
    return head


async def test_every_route_that_answers_get_answers_head(service: Running) -> None:
    described = (await service.http.get("/openapi.json")).json()["paths"]
    paths = [path for path, methods in described.items() if "get" in methods]
    assert len(paths) > 10
    for path in [*paths, "/openapi.json", "/docs"]:
        if path != "/metrics":  # its numbers change with each request
            url = path.replace("{model}", "colour").replace("{version}", "1")
            assert (await assert_alike(service.http, url)).status_code == 200
    metrics = await service.http.head("/metrics")
    assert (metrics.status_code, metrics.content) == (200, b"")
    assert int(metrics.headers["content-length"]) > 1000


@pytest.mark.parametrize(
    ("url", "status"), [("/nothing", 404), ("/v2/models/unknown", 404), ("/v1/classify", 405)]
)
async def test_an_error_has_no_body_either(service: Running, url: str, status: int) -> None:
    assert (await assert_alike(service.http, url)).status_code == status


async def test_head_needs_the_key_that_get_needs(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        assert (await assert_alike(service.http, "/v1/models")).status_code == 401
        assert (await assert_alike(service.http, "/v2/health/ready")).status_code == 200


async def test_head_is_counted_by_its_own_method(service: Running) -> None:
    await service.http.head("/v2/models/colour")
    labels = {"method": "HEAD", "route": "/v2/models/{model}", "status": "200"}
    metrics = service.engine.metrics.registry
    assert metrics.get_sample_value("http_requests_total", labels) == 1


async def test_the_allow_header_lists_head(service: Running) -> None:
    for url in ("/v1/models", "/openapi.json"):
        assert (await service.http.post(url)).headers["allow"] == "GET, HEAD"
    assert (await service.http.get("/v1/classify")).headers["allow"] == "POST"


def test_a_connection_stays_usable_after_head(repository: Path) -> None:
    with running(repository) as server:
        connection = server.connect()
        sizes = []
        for method in ("HEAD", "GET", "HEAD"):
            connection.request(method, "/v2/health/ready")
            response = connection.getresponse()
            assert response.status == 200
            sizes.append((int(response.headers["content-length"]), len(response.read())))
        connection.close()
        size = sizes[1][0]
        assert sizes == [(size, 0), (size, size), (size, 0)]
