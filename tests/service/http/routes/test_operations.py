import json
from pathlib import Path

import pytest

from tests.service.clients import error_of
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_versions

PHOTO = encode(solid(GREEN))


async def test_the_root_lists_endpoints_that_exist(service: Running) -> None:
    described = (await service.http.get("/openapi.json")).json()["paths"]
    for endpoint in (await service.http.get("/")).json():
        method, path = endpoint.split()
        if path != "/docs":
            assert method.lower() in described[path]
    assert (await service.http.get("/docs")).status_code == 200


async def test_the_description_names_bodies_and_statuses_and_no_422(service: Running) -> None:
    schema = (await service.http.get("/openapi.json")).json()
    assert "HTTPValidationError" not in json.dumps(schema)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            error = operation["responses"]["default"]["content"]["application/json"]["schema"]
            assert error["$ref"].endswith("/ErrorResponse")
    segment = schema["paths"]["/v1/segment"]["post"]
    assert set(segment["requestBody"]["content"]) >= {
        "image/*",
        "multipart/form-data",
        "application/json",
    }
    assert set(segment["responses"]["200"]["content"]) == {
        "application/json",
        *(f"image/{name}" for name in ("jpeg", "webp", "png")),
    }
    statuses = {"200", "400", "404", "408", "413", "415", "429", "500", "503", "504", "default"}
    assert set(segment["responses"]) == statuses
    assert {(p["in"], p["name"]) for p in segment["parameters"]} == {
        *(("query", name) for name in ("model", "version", "frame", "mask", "overlay", "format")),
        *(("query", name) for name in ("classes", "confidence", "coordinates", "edges")),
        ("query", "tolerance"),
        ("header", "X-Request-Timeout-Ms"),
    }


def told_of(folder: Path) -> dict:
    """A contract, but for the versions of libraries."""
    contract = json.loads((folder / "config.json").read_text())
    for version in contract["versions"].values():
        assert version["provenance"].pop("tools")
    return contract


async def test_one_model_is_described_alone_with_its_files(
    service: Running, repository: Path
) -> None:
    every = (await service.http.get("/v1/models")).json()["models"]
    for model in every:
        detail = (await service.http.get(f"/v1/models/{model['name']}")).json()
        folder = repository / model["name"]
        certificate = json.loads((folder / "1" / "certificate.json").read_text())
        assert detail.pop("certificate") == certificate
        assert detail.pop("contract") == told_of(folder)
        assert detail == model
    assert every[0]["batching"]["measurements"][0]["seconds"] > 0
    assert (await service.http.get("/v1/models/unknown")).status_code == 404


async def detail(service: Running, **query: str) -> dict:
    response = await service.http.get("/v1/models/colour", params=query)
    assert response.status_code == 200, response.text
    return response.json()


async def test_each_version_is_described_with_its_own_files(start: Start, repository: Path) -> None:
    folder = write_versions(repository, "1", "2", "3", "4", version_policy={"all": {}})
    (folder / "4" / "model.onnx").write_bytes(b"half a copy")
    async with start(shadow="colour:3@0.1") as service:
        assert (await detail(service))["version"] == "2"
        for version in ("1", "2", "3"):
            told = await detail(service, version=version)
            certificate = json.loads((folder / version / "certificate.json").read_text())
            assert (told["version"], told["state"]) == (version, "READY")
            assert told["certificate"] == certificate
            assert told["batching"]["measurements"]
        failed = await detail(service, version="4")
        assert (failed["state"], failed["certificate"]) == ("UNAVAILABLE", None)
        assert "SHA-256" in failed["reason"]
        assert failed["contract"] == told_of(folder)


@pytest.mark.parametrize(
    ("url", "status", "sentence"),
    [
        (
            "/v1/models/colour?version=9",
            404,
            "The model colour has no version 9; its versions are 1.",
        ),
        ("/v1/models/colour?version=", 400, "The parameter version is not valid"),
        (
            "/v1/models/colour?verison=1",
            400,
            "There is no parameter verison; did you mean version?",
        ),
        ("/v1/models?version=1", 400, "There is no parameter version; this path has none."),
    ],
)
async def test_an_unknown_query_parameter_or_version_is_refused(
    service: Running, url: str, status: int, sentence: str
) -> None:
    response = await service.http.get(url)
    assert response.status_code == status
    assert error_of(response).startswith(sentence)


async def test_an_unreadable_contract_is_reported_while_the_loaded_version_serves(
    service: Running, repository: Path
) -> None:
    config = repository / "colour" / "config.json"
    before, contract = config.read_text(), told_of(config.parent)
    config.write_text("{")
    load = "/v2/repository/models/colour/load"
    assert (await service.http.post(load)).status_code == 400
    index = (await service.http.post("/v2/repository/index")).json()
    (reason,) = {row["reason"] for row in index if row["name"] == "colour"} - {""}
    for query in ({}, {"version": "1"}):
        told = await detail(service, **query)
        assert (told["version"], told["state"], told["reason"]) == ("1", "READY", reason)
        assert told["contract"] == contract
    config.write_text(before)
    assert (await service.http.post(load)).status_code == 200
    assert (await detail(service))["reason"] is None


async def test_a_contract_that_was_never_readable_is_reported(
    start: Start, repository: Path
) -> None:
    (repository / "colour" / "config.json").write_text("{")
    async with start() as service:
        told = await detail(service)
        assert (told["version"], told["contract"]) == (None, None)
        assert told["reason"].startswith("config.json is not valid: ")
        assert "; " not in told["reason"]


async def test_requests_are_counted_by_route_and_outcome(service: Running) -> None:
    await service.http.post("/v1/classify", content=PHOTO)
    await service.http.post("/v1/classify", content=b"broken")
    await service.http.get("/some/unknown/path")
    await service.http.get("/v2/models/colour")
    response = await service.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    for line in (
        'http_requests_total{method="POST",route="/v1/classify",status="200"} 1.0',
        'http_requests_total{method="POST",route="/v1/classify",status="415"} 1.0',
        'http_requests_total{method="GET",route="unmatched",status="404"} 1.0',
        'http_requests_total{method="GET",route="/v2/models/{model}",status="200"} 1.0',
        'outcome="ok",task="classification",version="1"} 1.0',
        'outcome="bad_input",task="classification",version="1"} 1.0',
        'vt_inference_images_total{model="colour",version="1"} 1.0',
        'vt_stage_duration_seconds_count{model="colour",stage="compute"} 1.0',
        'vt_model_state{model="colour",state="READY",version="1"} 1.0',
    ):
        assert line in response.text
