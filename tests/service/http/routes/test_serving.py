"""Requests that cannot be served are counted by the model that they name."""

import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_versions
from tests.service.telemetry.samples import triton_samples

PHOTO = encode(solid(GREEN))
LABELS = ("model", "version", "task", "outcome")


async def ask(service: Running, path: str = "/v1/classify") -> int:
    return (await service.http.post(path, content=PHOTO)).status_code


async def unload(service: Running, model: str = "colour") -> None:
    response = await service.http.post(f"/v2/repository/models/{model}/unload")
    assert response.status_code == 200


def counted(service: Running) -> dict[tuple[str, ...], float]:
    """How many requests for predictions there were, by model, version, task and outcome."""
    return {
        tuple(sample.labels[name] for name in LABELS): sample.value
        for family in service.engine.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "vt_inference_requests_total" and sample.value
    }


async def test_a_request_for_an_unloaded_model_is_counted(service: Running) -> None:
    assert await ask(service) == 200
    await unload(service)
    paths = ("/v1/classify", "/v1/classify?model=colour", "/v2/models/colour/infer")
    for path in (*paths, "/v2/models/colour/versions/1/infer"):
        with capture_logs() as lines:
            assert await ask(service, path) == 503
        assert [line["model"] for line in lines if line["event"] == "request"] == ["colour"]
    of_model = ("colour", "1", "classification")
    assert counted(service) == {(*of_model, "ok"): 1, (*of_model, "unavailable"): 4}


async def test_a_version_that_is_not_wanted_is_counted_by_its_own_name(
    tmp_path: Path, start: Start
) -> None:
    write_versions(tmp_path, "1", "2")
    async with start(model_repository=tmp_path) as service:
        assert await ask(service, "/v1/classify?version=1") == 503
        assert await ask(service) == 200
        assert counted(service) == {
            ("colour", "1", "classification", "unavailable"): 1,
            ("colour", "2", "classification", "ok"): 1,
        }


async def test_a_model_of_which_nothing_could_be_read_is_counted_by_its_name(
    repository: Path, start: Start
) -> None:
    (repository / "colour" / "config.json").write_text("{")
    async with start() as service:
        for path in ("/v1/classify?model=colour", "/v2/models/colour/infer"):
            assert await ask(service, path) == 503
        assert counted(service) == {("colour", "", "", "unavailable"): 2}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/classify?model=unknown", 404),
        ("/v1/classify?version=7", 404),
        ("/v1/segment?model=colour", 400),
        ("/v2/models/unknown/infer", 404),
        ("/v2/models/colour/versions/7/infer", 404),
    ],
)
async def test_an_unknown_model_or_version_makes_no_labels(
    service: Running, path: str, status: int
) -> None:
    assert await ask(service, path) == status
    assert counted(service) == {}


async def test_a_request_for_an_unloaded_model_is_counted_under_tritons_names(start: Start) -> None:
    name = "nv_inference_request_failure/BACKEND"
    async with start(metrics_triton_names=True) as service:
        await unload(service)
        assert await triton_samples(service.http) == {}
        assert await ask(service) == 503
        found = await triton_samples(service.http)
        assert {reason for reason, count in found.items() if count} == {name}
        body = json.dumps({}).encode()
        path = "/v2/repository/models/colour/load"
        assert (await service.http.post(path, content=body)).status_code == 200
        assert await ask(service) == 200
        found = await triton_samples(service.http)
        assert (found[name], found["nv_inference_request_success"]) == (1, 1)
