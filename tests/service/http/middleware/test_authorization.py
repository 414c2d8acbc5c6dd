from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service.http.middleware.authorization import needed, presented_token
from service.http.middleware.local_key import is_loopback
from tests.service.clients import asked_from, bearer, error_of
from tests.service.conftest import ADMIN, LIMITED, PREDICT, Running, Start
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))
LOAD = "/v2/repository/models/colour/load"


def used(service: Running, key: str, outcome: str) -> float | None:
    labels = {"key": key, "outcome": outcome}
    return service.engine.metrics.registry.get_sample_value("vt_api_key_requests_total", labels)


PREDICTIONS = [
    "/v1/classify",
    "/v1/segment",
    "/v1/explain?model=colour",
    "/v1/embed?model=colour",
    "/v2/models/colour/infer",
    "/v2/models/colour/versions/1/infer",
]
METADATA = [
    ("GET", "/metrics"),
    ("GET", "/v1/models"),
    ("GET", "/v2/models/colour"),
    ("GET", "/openapi.json"),
    ("POST", "/v2/repository/index"),
]


@pytest.mark.parametrize("path", PREDICTIONS)
async def test_a_prediction_needs_a_key(start: Start, keys_file: Path, path: str) -> None:
    async with start(api_keys_file=keys_file) as service:
        response = await service.http.post(path, content=PHOTO)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "An API key is needed" in error_of(response)
        wrong = await service.http.post(path, content=PHOTO, headers=bearer(PREDICT[:-1]))
        assert (wrong.status_code, error_of(wrong)) == (401, "The API key is not valid.")
        headers = {"Inference-Header-Content-Length": "0", **bearer(PREDICT)}
        right = await service.http.post(path, content=PHOTO, headers=headers)
        assert right.status_code == 200
        counts = [used(service, *labels) for labels in (("", "missing"), ("", "unknown"))]
        assert [*counts, used(service, "shop", "admitted")] == [1, 1, 1]


async def test_a_key_is_accepted_in_either_header(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        for headers in (
            {"X-API-Key": PREDICT},
            {"Authorization": f"bearer {PREDICT}"},
            {"Authorization": "Basic cHJveHk6cHJveHk=", "X-API-Key": PREDICT},
        ):
            response = await service.http.post("/v1/classify", content=PHOTO, headers=headers)
            assert response.status_code == 200


async def test_a_scope_allows_only_its_own_routes(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        for token, path, status in (
            (ADMIN, LOAD, 200),
            (PREDICT, LOAD, 403),
            (ADMIN, "/v1/classify", 403),
        ):
            content = b"" if path == LOAD else PHOTO
            response = await service.http.post(path, content=content, headers=bearer(token))
            assert response.status_code == status
        assert "API key ops lacks the scope predict" in error_of(response)
        assert (await service.http.post(LOAD)).status_code == 401
        assert used(service, "shop", "forbidden") == used(service, "ops", "forbidden") == 1


async def test_the_rate_limit_of_one_key_does_not_affect_others(
    start: Start, keys_file: Path
) -> None:
    async with start(api_keys_file=keys_file) as service:
        answers = [
            await service.http.post("/v1/classify", content=PHOTO, headers=bearer(LIMITED))
            for _ in range(3)
        ]
        assert [each.status_code for each in answers] == [200, 200, 429]
        assert "API key slow exceeds its rate limit" in error_of(answers[2])
        assert 900 < int(answers[2].headers["retry-after"]) <= 1000
        other = await service.http.post("/v1/classify", content=PHOTO, headers=bearer(PREDICT))
        assert other.status_code == 200
        assert used(service, "slow", "rate_limited") == 1


@pytest.mark.parametrize(("method", "path"), METADATA)
async def test_metadata_need_a_key_only_if_the_settings_say_so(
    start: Start, keys_file: Path, method: str, path: str
) -> None:
    async with start(api_keys_file=keys_file) as service:
        assert (await service.http.request(method, path)).status_code == 200
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        assert (await service.http.request(method, path)).status_code == 401
        for token in (PREDICT, ADMIN):
            response = await service.http.request(method, path, headers=bearer(token))
            assert response.status_code == 200


async def test_health_never_needs_a_key(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        for path in ("live", "ready"):
            assert (await service.http.get(f"/v2/health/{path}")).status_code == 200


async def test_without_keys_anyone_predicts_and_the_local_key_changes_models(
    service: Running,
) -> None:
    token = service.app.state.access.local_key.token
    for headers in ({"X-API-Key": token}, bearer(token)):
        assert (await service.http.post(LOAD, headers=headers)).status_code == 200
    del service.http.headers["X-API-Key"]
    assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200
    for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": token[:-1]}, bearer("e")):
        response = await service.http.post(LOAD, headers=headers)
        assert response.status_code == 403
        assert "with the local key" in error_of(response)
        assert token not in response.text


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "::", "example.org"])  # noqa: S104
async def test_without_keys_a_server_on_a_public_address_cannot_change_models(
    start: Start, host: str
) -> None:
    async with start(host=host) as service:
        response = await service.http.post(LOAD)
        assert response.status_code == 403
        assert "from the server's own machine only" in error_of(response)
        assert (await service.http.post("/v2/repository/index")).status_code == 200


async def test_without_keys_a_remote_peer_cannot_change_models(service: Running) -> None:
    async with asked_from(service, "192.0.2.7") as elsewhere:
        response = await elsewhere.post(
            LOAD, headers=bearer(service.app.state.access.local_key.token)
        )
        assert response.status_code == 403


async def test_a_file_of_keys_leaves_no_local_key(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        assert service.app.state.access.local_key is None


async def test_the_description_says_that_the_local_key_changes_models(start: Start) -> None:
    async with start() as service:
        described = (await service.http.get("/openapi.json")).json()
        load = described["paths"]["/v2/repository/models/{model}/load"]["post"]
        assert load["security"] == [{"bearer": ["admin"]}, {"api_key": ["admin"]}]
        assert "security" not in described["paths"]["/v1/classify"]["post"]
    async with start(host="192.0.2.7") as service:
        described = (await service.http.get("/openapi.json")).json()
        assert "securitySchemes" not in described["components"]


@pytest.mark.parametrize(
    "header",
    [
        *("X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Real-IP"),
        *("Forwarded", "Origin", "Via"),
    ],
)
async def test_without_keys_proxies_and_web_pages_cannot_change_models(
    service: Running, header: str
) -> None:
    response = await service.http.post(LOAD, headers={header: "127.0.0.1"})
    assert response.status_code == 403
    assert "by a web page or through a proxy" in error_of(response)


async def test_a_forwarded_address_does_not_make_a_request_local(start: Start) -> None:
    async with start() as service, asked_from(service, "192.0.2.7") as elsewhere:
        response = await elsewhere.post(LOAD, headers={"X-Forwarded-For": "127.0.0.1"})
        assert response.status_code == 403


async def test_with_keys_a_local_request_needs_one_too(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        assert (await service.http.post(LOAD)).status_code == 401


async def test_a_refusal_comes_before_the_body_is_read(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        chunks = iter([b"never asked for"])

        async def receive() -> dict:
            return {"type": "http.request", "body": next(chunks), "more_body": True}

        sent: list[dict] = []
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/classify",
            "http_version": "1.1",
            "scheme": "http",
            "query_string": b"",
            "client": None,
            "server": None,
            "headers": [(b"expect", b"100-continue")],
        }

        async def send(message: dict) -> None:
            sent.append(message)

        await service.app(scope, receive, send)
        assert sent[0]["status"] == 401
        assert next(chunks) == b"never asked for"


async def test_a_log_line_has_the_keys_name_and_never_the_key(
    start: Start, keys_file: Path
) -> None:
    async with start(api_keys_file=keys_file) as service:
        with capture_logs() as lines:
            await service.http.post("/v1/classify", content=PHOTO, headers=bearer(PREDICT))
            await service.http.post("/v1/classify", content=PHOTO, headers=bearer("unknown"))
    assert [line.get("key") for line in lines] == ["shop", None]
    assert PREDICT not in str(lines)


def refused(service: Running) -> set[tuple[str, str, str]]:
    """Method, route and status of what was counted as refused."""
    samples = [
        sample
        for family in service.engine.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "http_requests_total"
    ]
    labels = [sample.labels for sample in samples if sample.value]
    return {
        (each["method"], each["route"], each["status"])
        for each in labels
        if each["status"] in ("401", "403", "429")
    }


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("POST", "/v1/classify", "/v1/classify"),
        ("POST", "/v1/classify?top_k=no", "/v1/classify"),
        ("POST", "/v2/models/colour/infer", "/v2/models/{model}/infer"),
        ("GET", "/v2/models/stats", "/v2/models/stats"),
        ("GET", "/v2/models/secret/stats", "/v2/models/{model}/stats"),
        ("GET", "/openapi.json", "/openapi.json"),
        ("PUT", "/v1/models/secret", "/v1/models/{model}"),
        ("POST", "/v1/classify/", "unmatched"),
        ("GET", "/v2/models/a/b/c/secret", "unmatched"),
        ("POST", "/v2/repository/models/secret/drop", "unmatched"),
    ],
)
async def test_a_refused_request_is_counted_by_its_route(
    start: Start, keys_file: Path, method: str, path: str, route: str
) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        assert (await service.http.request(method, path)).status_code == 401
        assert refused(service) == {(method, route, "401")}
        metrics = service.engine.metrics
        await service.http.request(method, path, headers=bearer(ADMIN), content=PHOTO)
        assert "secret" not in metrics.render("")[0].decode()


async def test_every_kind_of_refusal_is_counted_by_its_route(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file) as service:
        await service.http.post(LOAD, headers=bearer(PREDICT))
        for _ in range(3):
            await service.http.post("/v1/segment", headers=bearer(LIMITED))
        assert refused(service) == {
            ("POST", "/v2/repository/models/{model}/load", "403"),
            ("POST", "/v1/segment", "429"),
        }


async def test_a_scraper_without_a_key_is_in_the_log(start: Start, keys_file: Path) -> None:
    async with start(api_keys_file=keys_file, require_key_for_metadata=True) as service:
        with capture_logs() as lines:
            for headers in ({}, bearer(PREDICT)):
                await service.http.get("/metrics", headers=headers)
    assert [(each["route"], each["status"], each["log_level"]) for each in lines] == [
        ("/metrics", 401, "info"),
        ("/metrics", 200, "debug"),
    ]


def test_every_described_route_needs_the_right_scope(repository: Path) -> None:
    from service.app import create_app  # noqa: PLC0415
    from service.settings import Settings  # noqa: PLC0415

    described = create_app(Settings(model_repository=repository)).openapi()["paths"]
    needs = {
        (method.upper(), path): needed(method.upper(), path)
        for path, methods in described.items()
        for method in methods
    }
    assert {key for key, need in needs.items() if need == "predict"} == {
        ("POST", path.partition("?")[0].replace("colour", "{model}").replace("/1/", "/{version}/"))
        for path in PREDICTIONS
    }
    assert {key for key, need in needs.items() if need == "admin"} == {
        ("POST", f"/v2/repository/models/{{model}}/{verb}") for verb in ("load", "unload")
    }
    assert {key for key, need in needs.items() if need == "nothing"} == {
        *(("GET", f"/v2/health/{probe}") for probe in ("live", "ready")),
        ("GET", "/"),
    }


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "/v2/repository/models/colour/load", "admin"),
        ("POST", "/v2/repository/index/", "admin"),
        ("POST", "/v2/repository/anything/new", "admin"),
        ("PUT", "/v1/models", "predict"),
        ("BREW", "/nothing", "predict"),
        ("POST", "/v2/health", "predict"),
    ],
)
def test_unknown_paths_need_a_key(method: str, path: str, need: str) -> None:
    assert needed(method, path) == need


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ([], None),
        ([(b"authorization", b"Basic abc")], None),
        ([(b"authorization", b"Bearer")], None),
        ([(b"authorization", b"Bearer ")], b""),
        ([(b"x-api-key", b"a"), (b"authorization", b"BEARER  b ")], b"b"),
        ([(b"authorization", b"Basic abc"), (b"x-api-key", b"a")], b"a"),
    ],
)
def test_a_key_is_found_in_the_headers(
    headers: list[tuple[bytes, bytes]], token: bytes | None
) -> None:
    assert presented_token(headers) == token


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *[(host, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost")],
        *[(host, False) for host in ("0.0.0.0", "::", "10.0.0.1", "", "localhost.org")],  # noqa: S104
    ],
)
def test_loopback_addresses_are_recognised(host: str, local: bool) -> None:
    assert is_loopback(host) is local
