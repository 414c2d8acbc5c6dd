"""The fast path answers like the framework, and leaves all but plain requests to it."""

from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from tests.service.clients import error_of
from tests.service.conftest import PREDICT, Running, Start
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that the framework itself handled."""
    paths: list[str] = []
    handle = APIRoute.handle

    async def noted(route: APIRoute, *arguments: object) -> None:
        paths.append(route.path)
        await handle(route, *arguments)

    monkeypatch.setattr(APIRoute, "handle", noted)
    return paths


@pytest.mark.parametrize(
    "url",
    [
        "/v1/classify",
        "/v1/classify?top_k=2",
        "/v1/classify?model=colour&version=1",
        "/v1/segment?mask=rle",
        "/v1/segment?overlay=true",
    ],
)
async def test_the_fast_path_answers_like_the_framework(
    service: Running, handled: list[str], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = await service.http.post(url, content=PHOTO)
    assert handled == []
    monkeypatch.setattr("service.http.middleware.fast_path._query", lambda *_: None)
    long = await service.http.post(url, content=PHOTO)
    assert handled == [url.partition("?")[0]]
    assert (short.status_code, short.content) == (long.status_code, long.content)
    own = {"x-request-id", "server-timing"}
    assert short.headers.keys() - own == long.headers.keys() - own


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("/v1/classify?top_k=0", "The parameter top_k is not valid"),
        ("/v1/classify?colour=red", "There is no parameter colour"),
        ("/v1/segment?mask=gif", "The parameter mask is not valid"),
    ],
)
async def test_a_query_that_is_not_valid_is_left_to_the_framework(
    service: Running, handled: list[str], url: str, sentence: str
) -> None:
    response = await service.http.post(url, content=PHOTO)
    assert response.status_code == 400
    assert sentence in error_of(response)
    assert handled == [url.partition("?")[0]]


async def test_an_error_of_the_tree_is_answered_on_the_fast_path(
    service: Running, handled: list[str]
) -> None:
    response = await service.http.post("/v1/classify?model=unknown", content=PHOTO)
    assert response.status_code == 404
    assert "There is no model unknown" in error_of(response)
    assert handled == []


async def test_other_methods_and_paths_are_left_to_the_framework(
    service: Running, handled: list[str]
) -> None:
    assert (await service.http.get("/v1/classify")).status_code == 405
    assert (await service.http.get("/v1/models")).status_code == 200
    assert "/v1/models" in handled


async def test_a_request_with_an_origin_is_left_to_the_framework(
    start: Start, handled: list[str]
) -> None:
    origin = {"Origin": "https://shop.example"}
    async with start(cors_origins=("https://shop.example",)) as service:
        response = await service.http.post("/v1/classify", content=PHOTO, headers=origin)
        assert response.headers["access-control-allow-origin"] == "https://shop.example"
        assert handled == ["/v1/classify"]
        await service.http.post("/v1/classify", content=PHOTO)
        assert handled == ["/v1/classify"]


async def test_a_key_is_needed_on_the_fast_path(
    start: Start, keys_file: Path, handled: list[str]
) -> None:
    async with start(api_keys_file=keys_file) as service:
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 401
        headers = {"X-API-Key": PREDICT}
        response = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
        assert response.status_code == 200
    assert handled == []
