"""`/v2/repository` over HTTP: the index, loads and unloads."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.service.clients import error_of
from tests.service.conftest import Running
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_classifier, write_versions

PHOTO = encode(solid(GREEN))


def only(*versions: int) -> dict:
    """The body of a load that wants these versions."""
    policy = {"version_policy": {"specific": {"versions": list(versions)}}}
    return {"parameters": {"config": json.dumps(policy)}}


async def post(service: Running, path: str, body: Any = None) -> Any:
    response = await service.http.post(f"/v2/repository/{path}", json=body)
    assert response.status_code == 200, response.text
    return response.json() if response.content else None


async def test_the_index_lists_every_version_for_any_body(service: Running) -> None:
    rows = [
        {"name": name, "version": "1", "state": "READY", "reason": ""}
        for name in ("colour", "pixels")
    ]
    for content in (b"", b"{}", b'{"ready": true}'):
        response = await service.http.post("/v2/repository/index", content=content)
        assert response.json() == rows


async def test_a_model_is_unloaded_and_loaded(service: Running) -> None:
    assert await post(service, "models/colour/unload") is None
    row = {"name": "colour", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert row in await post(service, "index")
    assert row not in await post(service, "index", {"ready": True})
    assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 503
    assert (await service.http.get("/v2/models/colour/ready")).status_code == 503
    assert (await service.http.get("/v2/health/ready")).status_code == 200
    assert await post(service, "models/colour/load", {}) is None
    assert (await service.http.post("/v1/classify", content=PHOTO)).status_code == 200


async def test_a_model_added_to_the_repository_is_loaded(
    service: Running, repository: Path
) -> None:
    write_classifier(repository, "later")
    assert await post(service, "models/later/load") is None
    assert (await service.http.get("/v2/models/later/ready")).status_code == 200


async def test_a_new_model_that_cannot_be_loaded_leaves_the_server_ready(
    service: Running, repository: Path
) -> None:
    folder = write_classifier(repository, "later")
    (folder / "config.json").write_text("{")
    response = await service.http.post("/v2/repository/models/later/load")
    assert (response.status_code, "config.json is not valid" in error_of(response)) == (400, True)
    assert (await service.http.get("/v2/health/ready")).status_code == 200
    (row,) = [row for row in await post(service, "index") if row["name"] == "later"]
    assert (row["version"], row["state"]) == ("", "UNAVAILABLE")
    assert "config.json is not valid" in row["reason"]


async def test_a_repository_that_cannot_be_read_is_a_400_with_a_sentence(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))

    monkeypatch.setattr("service.repository.repository.entry_folders", fail)
    response = await service.http.post("/v2/repository/models/later/load")
    assert response.status_code == 400
    assert error_of(response).endswith(
        "later cannot be loaded: the model repository cannot be read."
    )


MADE_UP = {
    "thousands": only(*range(2, 6000)),
    "as many as may be named": only(*range(2, 66)),
    "no version at all": only(10**18),
    "a number of 4000 digits": only(10**4000),
    "a long name of a key": {"parameters": {"config": json.dumps({"x" * 60_000: 1})}},
}


def series_of_models(service: Running) -> list[str]:
    """What the metrics show of models, without the values."""
    lines = service.engine.metrics.render("")[0].decode().splitlines()
    return [line.rpartition(" ")[0] for line in lines if line.startswith("vt_")]


@pytest.mark.parametrize("name", MADE_UP)
async def test_made_up_versions_are_a_short_400_and_leave_nothing_behind(
    service: Running, name: str
) -> None:
    index = await post(service, "index")
    series = series_of_models(service)
    response = await service.http.post("/v2/repository/models/colour/load", json=MADE_UP[name])
    assert response.status_code == 400
    assert len(response.content) < 1000
    assert await post(service, "index") == index
    assert series_of_models(service) == series


async def test_a_version_that_cannot_be_loaded_is_reported_and_the_old_one_serves(
    service: Running,
) -> None:
    response = await service.http.post("/v2/repository/models/colour/load", json=only(3))
    assert response.status_code == 400
    assert "colour version 3" in error_of(response)
    assert (await service.http.post("/v1/classify", content=PHOTO)).json()["version"] == "1"


@pytest.mark.parametrize("action", ["load", "unload"])
async def test_an_unknown_model_is_a_404(service: Running, action: str) -> None:
    for name in ("unknown", "..", "%2e%2e%2fweights"):
        response = await service.http.post(f"/v2/repository/models/{name}/{action}")
        assert response.status_code == 404
        assert error_of(response)


MISTAKES = {
    "no json": (b"{", "The request is not valid"),
    "a list": (b"[]", "The request is not valid"),
    "parameters that are none": (b'{"parameters": 1}', "parameters"),
    "a file": (
        b'{"parameters": {"file:1/model.onnx": "AAAA"}}',
        "put files into the folder of the model repository",
    ),
    "a config that is no text": (b'{"parameters": {"config": {}}}', "JSON as text"),
    "a config that is no json": (b'{"parameters": {"config": "{"}}', "config is not valid"),
    "another key": (b'{"parameters": {"config": "{\\"max_batch_size\\": 3}"}}', "max_batch_size"),
    "two policies": (
        b'{"parameters": {"config": "{\\"version_policy\\": {\\"all\\": {}, \\"latest\\": {}}}"}}',
        "exactly one of",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
async def test_a_mistake_is_a_400_with_a_sentence(service: Running, name: str) -> None:
    content, sentence = MISTAKES[name]
    response = await service.http.post("/v2/repository/models/colour/load", content=content)
    assert response.status_code == 400, response.text
    assert sentence in error_of(response)


async def test_too_long_a_body_is_a_413(service: Running) -> None:
    response = await service.http.post("/v2/repository/index", content=b" " * 70_000)
    assert response.status_code == 413


async def test_a_corrupt_version_is_refused_and_the_previous_one_keeps_serving(
    service: Running, repository: Path
) -> None:
    write_versions(repository, "1", "2", "3")
    (repository / "colour" / "3" / "model.onnx").write_bytes(b"half a copy")
    await post(service, "models/colour/load", only(2))
    response = await service.http.post("/v2/repository/models/colour/load")
    assert response.status_code == 400
    assert "colour version 3: model.onnx does not have the SHA-256" in error_of(response)
    rows = {(row["name"], row["version"]): row for row in await post(service, "index")}
    assert rows["colour", "2"]["state"] == "READY"
    assert rows["colour", "3"]["state"] == "UNAVAILABLE"
    assert "SHA-256" in rows["colour", "3"]["reason"]
    assert (await service.http.post("/v1/classify", content=PHOTO)).json()["version"] == "2"
    assert (await service.http.get("/v2/health/ready")).status_code == 200
