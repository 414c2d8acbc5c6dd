import json
from pathlib import Path

from tests.service.conftest import Running
from tests.service.images import GREEN, encode, solid

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
    assert set(segment["responses"]["200"]["content"]) == {"application/json", "image/png"}
    statuses = {"200", "400", "404", "408", "413", "415", "429", "500", "503", "504", "default"}
    assert set(segment["responses"]) == statuses
    assert {(p["in"], p["name"]) for p in segment["parameters"]} == {
        *(("query", name) for name in ("model", "version", "mask", "overlay")),
        ("header", "X-Request-Timeout-Ms"),
    }


async def test_one_model_is_described_alone_with_its_files(
    service: Running, repository: Path
) -> None:
    every = (await service.http.get("/v1/models")).json()["models"]
    for model in every:
        detail = (await service.http.get(f"/v1/models/{model['name']}")).json()
        folder = repository / model["name"]
        certificate = json.loads((folder / "1" / "certificate.json").read_text())
        assert detail.pop("certificate") == certificate
        contract = json.loads((folder / "config.json").read_text())
        assert contract["versions"]["1"]["provenance"].pop("tools")
        assert detail.pop("contract") == contract  # but for the versions of libraries
        assert detail == model
    assert every[0]["batching"]["measurements"][0]["seconds"] > 0
    assert (await service.http.get("/v1/models/unknown")).status_code == 404


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
