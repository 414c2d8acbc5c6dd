"""Contracts, version policies, and loading and unloading on request."""

import asyncio
from functools import partial
from pathlib import Path

import pytest
import structlog

from service.errors import LoadFailed, ModelNotFound, ModelNotReady
from service.schema.shadow_rule import ShadowRule
from service.schema.version_policy import parse_version_policy
from tests.service.conftest import held, until
from tests.service.repository.models import READY, UNAVAILABLE, UNLOADING, Models, opened
from tests.service.repository_fixture import write_classifier, write_versions


async def test_a_failed_version_is_forgotten_once_it_is_no_longer_wanted(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.break_version("2")
    with pytest.raises(LoadFailed):
        await models.load()
    await models.load("specific:1")
    assert models.states()["2"] == (UNAVAILABLE, "unloaded")
    assert models.sample("vt_model_state", "2", state="UNAVAILABLE") is None
    assert models.loader.begun == ["2"]


SHADOW = ShadowRule("colour", "2", 0.5)


async def test_a_shadow_that_fails_does_not_stop_other_versions(tmp_path: Path) -> None:
    write_versions(tmp_path, "2", "3")
    models = await opened(tmp_path, shadow=SHADOW)
    assert models.repository.ready_versions("colour") == ["2", "3"]
    write_versions(tmp_path, "2", "3", "4", labels=["a", "b", "c"])
    models.break_version("2")
    await models.load()
    states = models.states()
    assert (states["3"], states["4"]) == ((UNAVAILABLE, "unloaded"), (READY, None))
    state, reason = states["2"]
    assert (state, "SHA-256" in (reason or "")) == (READY, True)
    await models.repository.unload("colour")
    await models.load("specific:2,3")
    assert models.states()["2"][0] is UNAVAILABLE
    assert models.find().identity.version == "3"
    await models.repository.close()


async def test_a_shadow_must_be_loaded_if_it_is_the_only_version_wanted(tmp_path: Path) -> None:
    write_versions(tmp_path, "2", "3")
    models = await opened(tmp_path, shadow=SHADOW)
    write_versions(tmp_path, "2", "3", labels=["a", "b", "c"])
    models.break_version("2")
    with pytest.raises(LoadFailed, match="colour version 2"):
        await models.load("specific:2")
    assert models.find().identity.version == "3"
    await models.repository.close()


@pytest.mark.parametrize(
    ("shadow", "policy", "reason"),
    [
        ("color:1", None, "the repository has no such model"),
        ("colour:9", None, "config.json does not list it"),
        ("colour:1", "specific:2", "the version policy leaves it out"),
    ],
)
async def test_a_shadow_that_will_not_be_loaded_is_logged_at_the_start(
    tmp_path: Path, shadow: str, policy: str | None, reason: str
) -> None:
    write_versions(tmp_path, "1", "2")
    model, _, version = shadow.partition(":")
    with structlog.testing.capture_logs() as lines:
        models = await opened(
            tmp_path, policy and parse_version_policy(policy), ShadowRule(model, version, 0.5)
        )
    warnings = [line for line in lines if line["event"] == "shadow_not_loaded"]
    told = {"model": model, "version": version, "reason": reason, "log_level": "warning"}
    assert warnings == [{"event": "shadow_not_loaded", **told}]
    assert models.find().identity.version == "2"
    await models.repository.close()


async def test_a_contract_that_cannot_be_read_changes_nothing_and_is_shown(models: Models) -> None:
    (models.path / "colour" / "config.json").write_text("{")
    with pytest.raises(LoadFailed, match=r"^The model colour cannot be loaded: config.json is"):
        await models.load()
    states = models.states()
    assert states["1"] == (READY, None)
    assert states[""][0] is UNAVAILABLE
    assert models.repository.not_ready() == []
    assert models.sample("vt_model_state", "", state="UNAVAILABLE") == 1
    write_versions(models.path, "1")
    await models.load()
    assert models.states() == {"1": (READY, None)}
    assert models.sample("vt_model_state", "", state="UNAVAILABLE") is None


@pytest.mark.parametrize(
    ("contract", "setting", "asked", "serve"),
    [
        (None, None, None, ["3"]),
        ("all", None, None, ["1", "2", "3"]),
        ("all", "latest:2", None, ["2", "3"]),
        ("all", "latest:2", "specific:1", ["1"]),
    ],
)
async def test_a_requested_policy_precedes_the_setting_and_that_the_contract(
    tmp_path: Path, contract: str | None, setting: str | None, asked: str | None, serve: list[str]
) -> None:
    config = {}
    if contract is not None:
        policy = parse_version_policy(contract)
        config["version_policy"] = policy.model_dump(exclude_none=True)
    write_versions(tmp_path, "1", "2", "3", **config)
    models = await opened(tmp_path, setting and parse_version_policy(setting))
    if asked is not None:
        await models.load(asked)
    assert models.repository.ready_versions("colour") == serve
    assert models.find().identity.version == serve[-1]
    assert models.find(serve[0]).identity.version == serve[0]
    await models.repository.close()


async def test_a_requested_version_that_is_not_listed_is_refused_and_not_shown(
    models: Models,
) -> None:
    with pytest.raises(LoadFailed, match=r"colour version 7: config.json does not list it"):
        await models.load("specific:7,1")
    assert models.states() == {"1": (READY, None)}
    assert models.sample("vt_model_state", "7", state="UNAVAILABLE") is None
    assert models.loader.begun == []
    with pytest.raises(LoadFailed, match=r"; and 55 more\.$") as caught:
        await models.load("specific:" + ",".join(map(str, range(2, 62))))
    assert len(str(caught.value)) < 500


async def test_a_version_of_the_setting_that_is_not_listed_is_shown(
    tmp_path: Path,
) -> None:
    write_versions(tmp_path, "1")
    models = await opened(tmp_path, parse_version_policy("specific:1,7"))
    not_listed = (UNAVAILABLE, "config.json does not list it")
    assert models.states() == {"1": (READY, None), "7": not_listed}
    assert models.repository.not_ready() == []
    await models.repository.close()


async def test_a_refused_load_leaves_an_unloaded_model_unloaded(models: Models) -> None:
    await models.repository.unload("colour")
    with pytest.raises(LoadFailed):
        await models.load("specific:7")
    assert models.states() == {"1": (UNAVAILABLE, "unloaded")}
    assert models.repository.not_ready() == []


async def test_unloading_answers_requests_in_flight_and_refuses_new_ones(
    models: Models,
) -> None:
    instance = models.find()
    with held(instance):
        unloading = asyncio.create_task(models.repository.unload("colour"))
        await until(lambda: models.states()["1"][0] is UNLOADING)
        with pytest.raises(ModelNotReady, match="colour version 1 is unloading"):
            models.find()
        assert models.loader.is_in_memory(instance)
    await unloading
    await models.loader.freed(instance)
    assert models.states() == {"1": (UNAVAILABLE, "unloaded")}
    with pytest.raises(ModelNotReady, match="The model colour version 1 is unloaded"):
        models.find()
    assert models.repository.not_ready() == []
    assert models.repository.wanted() == []
    await models.load()
    assert models.find()


async def test_a_failed_load_of_an_unloaded_model_makes_the_server_not_ready(
    models: Models,
) -> None:
    await models.repository.unload("colour")
    models.break_version("1")
    with pytest.raises(LoadFailed):
        await models.load()
    (version,) = models.repository.not_ready()
    assert "SHA-256" in version.describe()
    await models.repository.unload("colour")
    assert models.repository.not_ready() == []


async def test_a_load_continues_if_its_caller_is_cancelled(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loading = models.load()
    await until(lambda: models.loader.begun == ["2"])
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    models.loader.gate.set()
    await until(lambda: models.states() == {"1": (UNAVAILABLE, "unloaded"), "2": (READY, None)})


async def test_a_model_is_changed_by_one_operation_at_a_time(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loads = [models.load(), models.load()]
    await until(lambda: models.loader.begun == ["2"])
    unloading = asyncio.create_task(models.repository.unload("colour"))
    await asyncio.sleep(0)
    assert models.find().identity.version == "1"
    models.loader.gate.set()
    await asyncio.gather(*loads, unloading)
    assert models.loader.begun == ["2"]
    assert models.repository.ready_versions("colour") == []


async def test_a_new_folder_can_be_loaded_and_a_deleted_one_is_forgotten(
    models: Models,
) -> None:
    folder = write_classifier(models.path, "hue")
    with pytest.raises(ModelNotFound):
        models.repository.get("hue")
    await models.repository.load("hue")
    assert models.repository.ready_versions("hue") == ["1"]
    (folder / "config.json").unlink()
    await models.repository.unload("hue")
    with pytest.raises(ModelNotFound, match="no model hue; the only model is colour"):
        models.repository.get("hue")


async def test_a_new_model_counts_for_readiness_once_it_has_served(models: Models) -> None:
    folder = write_classifier(models.path, "hue")
    whole = (folder / "config.json").read_text()
    (folder / "config.json").write_text("{")
    labels = {"model": "hue", "version": "", "state": "UNAVAILABLE"}
    state = partial(models.metrics.registry.get_sample_value, "vt_model_state", labels)
    with pytest.raises(LoadFailed):
        await models.repository.load("hue")
    assert models.repository.not_ready() == []
    (row,) = [row for row in models.repository.index() if row.name == "hue"]
    assert (row.state, "config.json is not valid" in (row.reason or "")) == (UNAVAILABLE, True)
    assert state() == 1
    (folder / "config.json").write_text(whole)
    await models.repository.load("hue")
    assert state() is None
    await models.repository.unload("hue")
    (folder / "1" / "model.onnx").write_bytes(b"half a file")
    with pytest.raises(LoadFailed):
        await models.repository.load("hue")
    assert [each.name for each in models.repository.not_ready()] == ["hue"]


async def test_if_no_model_serves_every_model_that_is_not_unloaded_counts(
    models: Models,
) -> None:
    folder = write_classifier(models.path, "hue")
    (folder / "1" / "model.onnx").write_bytes(b"half a file")
    with pytest.raises(LoadFailed):
        await models.repository.load("hue")
    await models.repository.unload("colour")
    assert [each.name for each in models.repository.not_ready()] == ["hue"]
    await models.repository.unload("hue")
    assert models.repository.not_ready() == []


@pytest.mark.parametrize("name", ["other", "", ".", "..", "sub/colour", "../weights/colour", "\0"])
async def test_no_name_leads_out_of_the_repository(tmp_path: Path, name: str) -> None:
    path = tmp_path / "weights"
    write_versions(path, "1")
    write_versions(tmp_path, "1", name="weights")
    write_classifier(path / "sub")
    models = await opened(path)
    with pytest.raises(ModelNotFound, match="There is no model"):
        await models.repository.load(name)
    with pytest.raises(ModelNotFound, match="There is no model"):
        await models.repository.unload(name)
    await models.repository.close()
