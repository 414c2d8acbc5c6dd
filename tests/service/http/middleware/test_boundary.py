import httpx
import pytest

from tests.service.conftest import Running
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))
ALWAYS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
INSIDE = ("Traceback", "site-packages", "/srv/", ".py", "onnx", "Pillow", "uvicorn", "Error:")


def extra(response: httpx.Response) -> dict[str, str]:
    return {name: response.headers.get(name) for name in ALWAYS}


async def test_every_answer_has_the_security_headers(service: Running) -> None:
    for response in (
        await service.http.post("/v1/classify", content=PHOTO),
        await service.http.post("/v1/classify", content=b"x"),
        await service.http.get("/v2/health/live"),
        await service.http.get("/nothing"),
    ):
        assert extra(response) == ALWAYS
        assert "strict-transport-security" not in response.headers
        assert "server" not in response.headers


@pytest.mark.parametrize("path", ["/", "/docs", "/playground/page.js", "/docs/docs.js"])
async def test_a_page_runs_only_the_scripts_of_the_service(service: Running, path: str) -> None:
    headers = (await service.http.get(path)).headers
    policy = headers["content-security-policy"].split("; ")
    for rule in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"):
        assert rule in policy
    assert headers["cache-control"] == "no-cache"
    for name in ("cross-origin-resource-policy", "referrer-policy", "x-content-type-options"):
        assert headers[name] == ALWAYS[name]


async def test_https_responses_have_strict_transport_security(service: Running) -> None:
    transport = httpx.ASGITransport(service.app)
    async with httpx.AsyncClient(transport=transport, base_url="https://test") as http:
        response = await http.get("/v2/health/live")
    assert response.headers["strict-transport-security"] == "max-age=31536000"


def broken(images: list, outputs: list) -> list:
    raise RuntimeError("/srv/models/secret.onnx broke Pillow 12 in uvicorn")


REFUSED = [
    ("POST", "/v1/classify", PHOTO, 500),
    ("POST", "/v1/classify", PHOTO[:50], 400),
    ("POST", "/v1/classify", b"x", 415),
    ("POST", "/v1/classify?model=../../etc/passwd", PHOTO, 404),
    ("POST", "/v2/models/colour/infer", b"{", 400),
    ("POST", "/v2/repository/models/..%2Fother/load", b"", 404),
    ("GET", "/nothing", b"", 404),
    ("GET", "/v1/classify", b"", 405),
]


@pytest.mark.parametrize(("method", "path", "body", "status"), REFUSED)
async def test_error_responses_reveal_no_internals(
    service: Running, method: str, path: str, body: bytes, status: int
) -> None:
    service.replace_runs("colour", broken)
    response = await service.http.request(method, path, content=body)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    told = response.text + str(response.headers)
    assert [each for each in INSIDE if each in told] == []
