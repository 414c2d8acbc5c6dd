"""Versions take over from others without refusing a request or leaking memory."""

import asyncio
import gc
from pathlib import Path

import pytest
import structlog

from service.errors import LoadFailed, ModelNotReady
from service.repository.repository import ModelRepository
from service.schema.version_policy import parse_version_policy
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import Running, Start, held, until, version_loader
from tests.service.photos import GREEN, encode, solid
from tests.service.repository.models import LOADING, READY, UNAVAILABLE, UNLOADING, Models, opened
from tests.service.repository_fixture import write_versions

PHOTO = encode(solid(GREEN))


async def test_a_new_version_takes_over_once_it_is_ready(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loading = models.load()
    await until(lambda: models.loader.begun == ["2"])
    assert models.find().identity.version == "1"
    assert models.states() == {"1": (READY, None), "2": (LOADING, None)}
    with pytest.raises(ModelNotReady, match="colour version 2 is loading"):
        models.find("2")
    assert models.repository.not_ready() == []
    models.loader.gate.set()
    await loading
    assert models.find().identity.version == "2"
    assert models.states() == {"1": (UNAVAILABLE, "unloaded"), "2": (READY, None)}
    assert models.loader.begun == ["2"]


async def test_a_request_keeps_the_version_that_it_found(models: Models) -> None:
    write_versions(models.path, "1", "2")
    old = models.find()
    with held(old):
        loading = models.load()
        await until(lambda: models.states()["1"][0] is UNLOADING)
        assert models.find().identity.version == "2"
        with pytest.raises(ModelNotReady, match="colour version 1 is unloading"):
            models.find("1")
        assert models.loader.is_in_memory(old)
        assert not loading.done()
    await loading
    await models.loader.freed(old)


async def test_a_drain_ends_at_its_time_limit(tmp_path: Path) -> None:
    write_versions(tmp_path, "1")
    metrics = PrometheusMetrics()
    repository = ModelRepository(
        tmp_path, version_loader(metrics), metrics.models, drain_seconds=0.01
    )
    await repository.load_all()
    with held(repository.get("colour").ready_instance()):
        await repository.unload("colour")
    assert repository.ready_versions("colour") == []


async def test_a_released_version_is_freed_without_the_garbage_collector(
    models: Models,
) -> None:
    write_versions(models.path, "1", "2")
    old = models.find()
    gc.collect()
    gc.disable()
    try:
        await models.load()
        await models.loader.freed(old)
    finally:
        gc.enable()


async def test_a_released_version_has_no_metrics(models: Models) -> None:
    write_versions(models.path, "1", "2")
    await models.load()
    for name in ("vt_queue_depth", "vt_hung", "vt_selftest_ok"):
        assert models.sample(name, "1") is None
        assert models.sample(name, "2") is not None
    assert models.sample("vt_model_state", "1", state="READY") is None
    assert models.sample("vt_model_state", "2", state="READY") == 1


async def test_if_a_version_fails_the_old_one_serves_on_and_the_reason_is_shown(
    models: Models,
) -> None:
    write_versions(models.path, "1", "2")
    models.break_version("2")
    old = models.find()
    with pytest.raises(LoadFailed) as caught:
        await models.load()
    reason = "model.onnx does not have the SHA-256 that certificate.json states"
    assert str(caught.value) == f"Not every version could be loaded: colour version 2: {reason}."
    assert models.states() == {"1": (READY, None), "2": (UNAVAILABLE, reason)}
    assert models.find() is old
    assert models.repository.not_ready() == []
    assert models.sample("vt_model_state", "2", state="UNAVAILABLE") == 1
    write_versions(models.path, "1", "2")
    await models.load()
    assert models.states()["2"] == (READY, None)


async def test_the_reason_does_not_show_an_unexpected_error(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.load = None
    with pytest.raises(LoadFailed, match="an unexpected error; see the server's log"):
        await models.load()


async def test_a_changed_version_is_replaced(models: Models) -> None:
    old = models.find()
    await models.load()
    assert models.find() is old
    write_versions(models.path, "1", labels=["a", "b", "c"])
    assert models.repository.get("colour").status().labels == ["red", "green", "blue"]
    await models.load()
    assert models.find() is not old
    await models.loader.freed(old)
    assert models.repository.get("colour").status().labels == ["a", "b", "c"]
    assert models.sample("vt_queue_depth", "1") == 0


async def test_if_a_changed_version_fails_its_old_form_serves_on(
    models: Models,
) -> None:
    old = models.find()
    write_versions(models.path, "1", labels=["a", "b", "c"])
    models.break_version("1")
    with pytest.raises(LoadFailed):
        await models.load()
    assert models.find() is old
    state, reason = models.states()["1"]
    assert (state, "SHA-256" in (reason or "")) == (READY, True)
    assert models.repository.get("colour").status().labels == ["red", "green", "blue"]


@pytest.mark.parametrize("broken", ["1", "2", "3"])
async def test_if_one_of_several_versions_fails_nothing_changes(
    models: Models, broken: str
) -> None:
    old, labels = models.find(), ["a", "b", "c"]
    write_versions(models.path, "1", "2", "3", labels=labels)
    models.break_version(broken)
    with pytest.raises(LoadFailed) as caught:
        await models.load("all")
    told = str(caught.value)
    assert (f"colour version {broken}: model.onnx" in told, told.count("colour")) == (True, 1)
    assert models.find() is old
    assert models.repository.get("colour").status().labels == ["red", "green", "blue"]
    for each in models.loader.loaded:
        await models.loader.freed(each)
    states = models.states()
    assert [states[each][0] for each in ("1", "2", "3")] == [READY, UNAVAILABLE, UNAVAILABLE]
    for version, (_, reason) in states.items():
        expected = "SHA-256" if version == broken else "another version of the same load"
        assert expected in (reason or "")
    write_versions(models.path, "1", "2", "3", labels=labels)
    await models.load("all")
    assert models.states() == dict.fromkeys(("1", "2", "3"), (READY, None))
    assert models.find("1").contract.labels == labels


async def test_versions_of_one_load_take_over_together(models: Models) -> None:
    labels = ["a", "b", "c"]
    write_versions(models.path, "1", "2", labels=labels)
    with held(models.find()):
        loading = models.load("all")
        await until(lambda: models.repository.ready_versions("colour") == ["1", "2"])
        assert models.find("1").contract.labels == labels
        assert not loading.done()
    await loading


async def test_closing_frees_an_instance_that_has_not_yet_taken_over(models: Models) -> None:
    write_versions(models.path, "1", "2", "3")
    loading = models.load("all")
    await until(lambda: models.loader.begun == ["3"])
    models.loader.gate.clear()
    await until(lambda: models.loader.begun == ["3", "2"])
    await models.repository.close()
    await asyncio.gather(loading, return_exceptions=True)
    (third,) = models.loader.loaded
    await models.loader.freed(third)


async def test_if_nothing_serves_each_version_that_can_be_loaded_does(tmp_path: Path) -> None:
    write_versions(tmp_path, "1", "2", "3")
    (tmp_path / "colour" / "2" / "model.onnx").write_bytes(b"half a file")
    models = await opened(tmp_path, parse_version_policy("all"))
    assert models.repository.ready_versions("colour") == ["1", "3"]
    await models.repository.unload("colour")
    with pytest.raises(LoadFailed, match="colour version 2"):
        await models.load()
    assert models.repository.ready_versions("colour") == ["1", "3"]
    await models.repository.close()


async def test_closing_cancels_a_load_in_progress(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loading = models.load()
    await until(lambda: models.loader.begun == ["2"])
    instance = models.find()
    await models.repository.close()
    with pytest.raises(asyncio.CancelledError):
        await loading
    await models.loader.freed(instance)


async def test_each_load_and_release_is_logged_once(models: Models) -> None:
    write_versions(models.path, "1", "2")
    with structlog.testing.capture_logs() as lines:
        await models.load()
        await models.repository.unload("colour")
    usual = [line for line in lines if line["log_level"] != "debug"]
    told = [(line["event"], line["version"]) for line in usual if "version" in line]
    assert told == [("model_ready", "2"), ("model_unloaded", "1"), ("model_unloaded", "2")]


def classify(service: Running, query: str = "") -> "asyncio.Task[object]":
    return asyncio.create_task(service.http.post(f"/v1/classify{query}", content=PHOTO))


async def test_a_request_in_flight_during_a_swap_is_answered_by_the_old_version(
    start: Start, repository: Path
) -> None:
    async with start() as service:
        write_versions(repository, "1", "2")
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        models = service.engine.repository
        loading = asyncio.create_task(models.load("colour"))
        await asyncio.sleep(0)
        gate.open()
        await loading
        second = await classify(service)
        versions = [(await first).json()["version"], second.json()["version"]]
        assert versions == ["1", "2"]
        assert (await classify(service, "?version=1")).status_code == 503
        assert (await service.http.get("/v2/health/ready")).status_code == 200
        rows = (await service.http.get("/v1/models")).json()["models"]
        assert [(row["name"], row["version"]) for row in rows] == [("colour", "2"), ("pixels", "1")]


async def test_no_request_is_refused_during_swaps(start: Start, repository: Path) -> None:
    write_versions(repository, "1", "2")
    async with start(cores=2) as service:
        models, statuses, stop = service.engine.repository, [], asyncio.Event()

        async def user() -> None:
            while not stop.is_set():
                statuses.append((await classify(service)).status_code)

        users = [asyncio.create_task(user()) for _ in range(3)]
        for version in (1, 2, 1, 2):
            await models.load("colour", parse_version_policy(f"specific:{version}"))
        stop.set()
        await asyncio.gather(*users)
        assert set(statuses) == {200}
        assert models.ready_versions("colour") == ["2"]
