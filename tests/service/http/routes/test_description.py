"""The OpenAPI description of keys and refusals matches the running service."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import schemathesis

from tests.service.clients import asked_from, bearer
from tests.service.conftest import ADMIN, LIMITED, PREDICT, Running, Start

SCHEMES = {"bearer", "api_key"}
PREDICTIONS = {
    ("POST", "/v1/classify"),
    ("POST", "/v1/segment"),
    ("POST", "/v1/explain"),
    ("POST", "/v1/embed"),
    ("POST", "/v2/models/{model}/infer"),
    ("POST", "/v2/models/{model}/versions/{version}/infer"),
}
CHANGES = {("POST", f"/v2/repository/models/{{model}}/{verb}") for verb in ("load", "unload")}
OPEN = {("GET", "/"), ("GET", "/v2/health/live"), ("GET", "/v2/health/ready")}

Operation = tuple[str, str]


@pytest.fixture(params=["keys for predictions", "keys for metadata too"])
def key_settings(request: pytest.FixtureRequest, keys_file: Path) -> dict:
    needs_key = request.param == "keys for metadata too"
    return {"api_keys_file": keys_file, "require_key_for_metadata": needs_key}


def operations(service: Running) -> Iterator[tuple[Operation, dict]]:
    for path, methods in service.app.openapi()["paths"].items():
        for method, operation in methods.items():
            yield (method.upper(), path), operation


def stating(service: Running, status: int) -> set[Operation]:
    """The operations whose description names a status."""
    return {key for key, each in operations(service) if str(status) in each["responses"]}


def scopes(service: Running) -> dict[Operation, list[str]]:
    """The operations that state that they need a key, and the scope of it."""
    found = {}
    for key, operation in operations(service):
        for requirement in operation.get("security", []):
            ((_, found[key]),) = requirement.items()
        assert {name for each in operation.get("security", []) for name in each} in (SCHEMES, set())
    return found


async def answering(
    service: Running, http: httpx.AsyncClient, status: int, token: str | None = None
) -> set[Operation]:
    """The operations that answer with a status; bodies are empty."""
    found = set()
    for (method, path), _ in operations(service):
        headers = {} if token is None else bearer(token)
        url = path.format(model="colour", version="1")
        if (await http.request(method, url, headers=headers)).status_code == status:
            found.add((method, path))
    return found


async def test_a_key_is_asked_for_where_the_description_says_so(
    start: Start, key_settings: dict
) -> None:
    async with start(**key_settings) as service:
        asked = await answering(service, service.http, 401)
        assert asked == set(scopes(service)) == stating(service, 401)
        every = {key for key, _ in operations(service)}
        all_but_health = key_settings["require_key_for_metadata"]
        assert asked == (every - OPEN if all_but_health else PREDICTIONS | CHANGES)


async def test_a_key_without_the_scope_is_refused_where_the_description_says_so(
    start: Start, key_settings: dict
) -> None:
    async with start(**key_settings) as service:
        stated = scopes(service)
        needing = {
            scope: {key for key, needed in stated.items() if needed == [scope]}
            for scope in ("predict", "admin")
        }
        assert needing == {"predict": PREDICTIONS, "admin": CHANGES}
        assert await answering(service, service.http, 403, ADMIN) == needing["predict"]
        assert await answering(service, service.http, 403, PREDICT) == needing["admin"]
        assert stating(service, 403) == PREDICTIONS | CHANGES


async def test_a_rate_is_limited_where_the_description_says_so(
    start: Start, key_settings: dict
) -> None:
    async with start(**key_settings) as service:
        for _ in range(2):
            await service.http.post("/v1/classify", headers=bearer(LIMITED))
        limited = await answering(service, service.http, 429, LIMITED)
        assert limited == stating(service, 429) == PREDICTIONS | CHANGES


async def test_without_keys_nothing_states_one_and_changes_may_be_forbidden(start: Start) -> None:
    async with start() as service, asked_from(service, "192.0.2.7") as elsewhere:
        assert await answering(service, elsewhere, 401) == stating(service, 401) == set()
        assert await answering(service, elsewhere, 403) == stating(service, 403) == CHANGES
        assert stating(service, 429) == PREDICTIONS  # the queue's
        assert scopes(service) == {key: ["admin"] for key in CHANGES}


async def test_the_schemes_are_the_two_headers_that_bring_a_key(
    start: Start, keys_file: Path
) -> None:
    async with start(api_keys_file=keys_file) as service:
        description = (await service.http.get("/openapi.json")).json()
        schemes = description["components"]["securitySchemes"]
        assert set(schemes) == SCHEMES
        assert (schemes["bearer"]["type"], schemes["bearer"]["scheme"]) == ("http", "bearer")
        api_key = schemes["api_key"]
        assert (api_key["type"], api_key["in"]) == ("apiKey", "header")
        response = await service.http.post("/v1/classify", headers={api_key["name"]: PREDICT})
        assert response.status_code == 400  # the body is empty: the key was good


async def test_a_description_with_keys_is_valid_openapi(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        schemathesis.openapi.from_dict(service.app.openapi()).validate()
