from pathlib import Path

from tests.service.clients import error_of
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid

PHOTO = encode(solid(GREEN))


async def test_health_and_metadata_follow_the_open_inference_protocol(service: Running) -> None:
    async def get(url: str) -> dict:
        response = await service.http.get(url)
        assert response.status_code == 200
        return response.json()

    assert await get("/v2/health/live") == {"live": True}
    assert await get("/v2/health/ready") == {"ready": True}
    server = await get("/v2")
    assert (server["name"], server["version"]) == ("vt-serve", "0.1.0")
    assert {"binary_tensor_data", "classification", "statistics"} <= set(server["extensions"])
    metadata = await get("/v2/models/pixels")
    assert metadata == {
        "name": "pixels",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": "labels", "datatype": "UINT8", "shape": [-1, -1, -1]}],
    }
    assert await get("/v2/models/pixels/versions/1") == metadata
    assert await get("/v2/models/pixels/ready") == {"name": "pixels", "ready": True}
    assert await get("/v2/models/pixels/versions/1/ready") == {"name": "pixels", "ready": True}


async def test_only_the_path_names_a_version(service: Running) -> None:
    described = (await service.http.get("/openapi.json")).json()["paths"]
    for path, operations in described.items():
        if path.startswith("/v2"):
            for each in operations.values():
                assert "query" not in {one["in"] for one in each.get("parameters", [])}, path
    for query in ("", "?version=", "?version=9"):
        for route in ("", "/ready", "/config", "/stats"):
            response = await service.http.get(f"/v2/models/colour{route}{query}")
            assert response.status_code == 200, (route, query)
        headers = {"Inference-Header-Content-Length": "0"}
        response = await service.http.post(
            f"/v2/models/colour/infer{query}", content=PHOTO, headers=headers
        )
        assert response.status_code == 200


async def test_a_refused_model_makes_the_server_not_ready_and_the_others_serve(
    start: Start, repository: Path
) -> None:
    (repository / "colour" / "1" / "model.onnx").write_bytes(b"tampered")
    async with start() as service:
        response = await service.http.get("/v2/health/ready")
        assert response.status_code == 503
        assert "colour version 1 is unavailable: model.onnx does not have" in error_of(response)
        assert (await service.http.get("/v2/models/colour")).status_code == 200
        assert (await service.http.get("/v2/models/colour/ready")).status_code == 503
        assert (await service.http.get("/v2/models/pixels/ready")).status_code == 200
        assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 503
        assert (await service.http.post("/v1/segment", content=PHOTO)).status_code == 200
        models = {m["name"]: m for m in (await service.http.get("/v1/models")).json()["models"]}
        assert models["colour"]["state"] == "UNAVAILABLE"
        assert "SHA-256" in models["colour"]["reason"]
        assert models["pixels"]["state"] == "READY"
        assert models["pixels"]["labels"] == ["red", "green", "blue"]
