import httpx
import pytest

from tests.service.clients import error_of
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))
PAGE = "https://shop.example"


def preflight(origin: str, method: str = "POST", headers: str = "x-api-key") -> dict[str, str]:
    return {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": headers,
    }


def allowed(response: httpx.Response) -> str | None:
    return response.headers.get("access-control-allow-origin")


async def test_by_default_no_page_may_send_requests(service: Running) -> None:
    response = await service.http.options("/v1/classify", headers=preflight(PAGE))
    assert (response.status_code, allowed(response)) == (405, None)
    answer = await service.http.post("/v1/classify", content=PHOTO, headers={"Origin": PAGE})
    assert allowed(answer) is None


async def test_an_allowed_origin_may_send_requests_with_a_key(start: Start) -> None:
    async with start(cors_origins=("https://other.example", PAGE)) as service:
        response = await service.http.options("/v1/classify", headers=preflight(PAGE))
        assert (response.status_code, allowed(response)) == (200, PAGE)
        assert "x-api-key" in response.headers["access-control-allow-headers"].lower()
        answer = await service.http.post("/v1/classify", content=PHOTO, headers={"Origin": PAGE})
        assert (answer.status_code, allowed(answer)) == (200, PAGE)
        assert "Server-Timing" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        (preflight("https://evil.example"), "origin"),
        (preflight(PAGE, method="DELETE"), "method"),
        (preflight(PAGE, headers="cookie"), "headers"),
    ],
)
async def test_a_refused_preflight_names_the_reason(
    start: Start, asked: dict[str, str], what: str
) -> None:
    async with start(cors_origins=(PAGE,)) as service:
        response = await service.http.options("/v1/classify", headers=asked)
        assert response.status_code == 400
        assert error_of(response) == f"Disallowed CORS {what}."


async def test_an_allowed_page_may_ask_for_a_private_network(start: Start) -> None:
    asked = {"Access-Control-Request-Private-Network": "true"}
    async with start(cors_origins=(PAGE,)) as service:
        response = await service.http.options("/v1/classify", headers=preflight(PAGE) | asked)
        assert response.status_code == 200
        assert response.headers["access-control-allow-private-network"] == "true"
        evil = preflight("https://evil.example") | asked
        assert (await service.http.options("/v1/classify", headers=evil)).status_code == 400


async def test_a_page_can_read_error_responses(start: Start) -> None:
    async with start(cors_origins=(PAGE,)) as service:
        response = await service.http.post("/v1/classify", headers={"Origin": PAGE})
        assert (response.status_code, allowed(response)) == (400, PAGE)


async def test_a_wildcard_allows_every_origin(start: Start) -> None:
    async with start(cors_origins=("*",)) as service:
        response = await service.http.options("/v1/classify", headers=preflight(PAGE))
        assert (response.status_code, allowed(response)) == (200, "*")
