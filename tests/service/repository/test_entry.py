"""Versions come and go while others serve: nobody is refused, and nothing is left behind."""

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import structlog

from service.batching.instance import ModelInstance
from service.errors import LoadFailed, ModelNotFound, ModelNotReady
from service.repository.repository import ModelRepository
from service.schema.contract import Contract
from service.schema.shadow_rule import ShadowRule
from service.schema.version_policy import VersionPolicy, parse_version_policy
from service.schema.vocabulary import ModelState, Task
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import Running, Start, held, sessions_of, until, version_loader
from tests.service.photos import GREEN, encode, solid
from tests.service.repository_fixture import write_classifier, write_versions

PHOTO = encode(solid(GREEN))
LOADING, READY, UNLOADING, UNAVAILABLE = (
    *(ModelState.LOADING, ModelState.READY),
    *(ModelState.UNLOADING, ModelState.UNAVAILABLE),
)


class Loader:
    """Loads versions as soon as the gate is open."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._load = version_loader(metrics)
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun: list[str] = []
        self.loaded: list[ModelInstance] = []

    async def __call__(self, folder: Path, contract: Contract, version: str) -> ModelInstance:
        self.begun.append(version)
        await self.gate.wait()
        self.loaded.append(await self._load(folder, contract, version))
        return self.loaded[-1]


@dataclass
class Models:
    """A repository with one model, `colour`, in its first version."""

    path: Path
    repository: ModelRepository
    loader: Loader
    metrics: PrometheusMetrics

    def find(self, version: str | None = None) -> ModelInstance:
        return self.repository.find(Task.CLASSIFICATION, "colour", version).ready_instance()

    def states(self) -> dict[str, tuple[ModelState, str | None]]:
        return {row.version: (row.state, row.reason) for row in self.repository.index()}

    def load(self, policy: str | None = None) -> "asyncio.Task[None]":
        chosen = policy and parse_version_policy(policy)
        return asyncio.create_task(self.repository.load("colour", chosen))

    def break_version(self, version: str) -> None:
        (self.path / "colour" / version / "model.onnx").write_bytes(b"half a file")

    def sample(self, name: str, version: str, **labels: str) -> float | None:
        labels |= {"model": "colour", "version": version}
        return self.metrics.registry.get_sample_value(name, labels)


async def opened(
    path: Path, policy: VersionPolicy | None = None, shadow: ShadowRule | None = None
) -> Models:
    metrics = PrometheusMetrics()
    loader = Loader(metrics)
    repository = ModelRepository(path, loader, metrics, policy=policy, shadow=shadow)
    await repository.load_all()
    loader.begun.clear()
    loader.loaded.clear()
    return Models(path, repository, loader, metrics)


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    write_versions(tmp_path, "1")
    models = await opened(tmp_path)
    yield models
    models.loader.gate.set()
    await models.repository.close()


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


async def test_who_found_the_old_version_keeps_it_until_answered(models: Models) -> None:
    write_versions(models.path, "1", "2")
    old = models.find()
    with held(old):
        loading = models.load()
        await until(lambda: models.states()["1"][0] is UNLOADING)
        assert models.find().identity.version == "2"
        with pytest.raises(ModelNotReady, match="colour version 1 is unloading"):
            models.find("1")
        assert sessions_of(old)
        assert not loading.done()
    await loading
    assert not sessions_of(old)


async def test_who_holds_it_for_too_long_is_not_waited_for(tmp_path: Path) -> None:
    write_versions(tmp_path, "1")
    metrics = PrometheusMetrics()
    repository = ModelRepository(tmp_path, version_loader(metrics), metrics, drain_seconds=0.01)
    await repository.load_all()
    with held(repository.get("colour").ready_instance()):
        await repository.unload("colour")
    assert repository.ready_versions("colour") == []


async def test_the_memory_of_a_released_version_is_free_without_the_collector(
    models: Models,
) -> None:
    write_versions(models.path, "1", "2")
    gone = [weakref.ref(session) for session in sessions_of(models.find()).values()]
    gc.collect()
    gc.disable()
    try:
        await models.load()
        await until(lambda: all(session() is None for session in gone))
    finally:
        gc.enable()


async def test_nothing_is_shown_of_a_released_version(models: Models) -> None:
    write_versions(models.path, "1", "2")
    await models.load()
    for name in ("vt_queue_depth", "vt_hung", "vt_selftest_ok"):
        assert models.sample(name, "1") is None
        assert models.sample(name, "2") is not None
    assert models.sample("vt_model_state", "1", state="READY") is None
    assert models.sample("vt_model_state", "2", state="READY") == 1


async def test_a_version_that_fails_leaves_the_old_one_serving_and_says_why(
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


async def test_a_failed_version_is_forgotten_once_it_is_not_wanted(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.break_version("2")
    with pytest.raises(LoadFailed):
        await models.load()
    await models.load("specific:1")
    assert models.states()["2"] == (UNAVAILABLE, "unloaded")
    assert models.sample("vt_model_state", "2", state="UNAVAILABLE") is None
    assert models.loader.begun == ["2"]


async def test_an_unforeseen_failure_is_kept_out_of_the_answer(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader._load = None
    with pytest.raises(LoadFailed, match="the server's log says why"):
        await models.load()


async def test_what_changed_of_a_version_is_loaded_in_its_place(models: Models) -> None:
    old = models.find()
    await models.load()
    assert models.find() is old
    write_versions(models.path, "1", labels=["a", "b", "c"])
    assert models.repository.get("colour").status().labels == ["red", "green", "blue"]
    await models.load()
    assert models.find() is not old
    assert not sessions_of(old)
    assert models.repository.get("colour").status().labels == ["a", "b", "c"]
    assert models.sample("vt_queue_depth", "1") == 0


async def test_a_changed_version_that_fails_leaves_the_one_before_in_its_place(
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
async def test_a_load_of_which_one_version_fails_changes_nothing(
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
    assert all(not sessions_of(each) for each in models.loader.loaded)
    states = models.states()
    assert [states[each][0] for each in ("1", "2", "3")] == [READY, UNAVAILABLE, UNAVAILABLE]
    for version, (_, reason) in states.items():
        expected = "SHA-256" if version == broken else "another version of the same load"
        assert expected in (reason or "")
    write_versions(models.path, "1", "2", "3", labels=labels)
    await models.load("all")
    assert models.states() == dict.fromkeys(("1", "2", "3"), (READY, None))
    assert models.find("1").contract.labels == labels


async def test_versions_that_are_loaded_together_take_over_together(models: Models) -> None:
    labels = ["a", "b", "c"]
    write_versions(models.path, "1", "2", labels=labels)
    with held(models.find()):
        loading = models.load("all")
        await until(lambda: models.repository.ready_versions("colour") == ["1", "2"])
        assert models.find("1").contract.labels == labels
        assert not loading.done()
    await loading


async def test_closing_frees_what_was_loaded_and_has_not_taken_over(models: Models) -> None:
    write_versions(models.path, "1", "2", "3")
    loading = models.load("all")
    await until(lambda: models.loader.begun == ["3"])
    models.loader.gate.clear()
    await until(lambda: models.loader.begun == ["3", "2"])
    await models.repository.close()
    await asyncio.gather(loading, return_exceptions=True)
    (third,) = models.loader.loaded
    assert not sessions_of(third)


async def test_where_nothing_serves_what_can_be_loaded_does(tmp_path: Path) -> None:
    write_versions(tmp_path, "1", "2", "3")
    (tmp_path / "colour" / "2" / "model.onnx").write_bytes(b"half a file")
    models = await opened(tmp_path, parse_version_policy("all"))
    assert models.repository.ready_versions("colour") == ["1", "3"]
    await models.repository.unload("colour")
    with pytest.raises(LoadFailed, match="colour version 2"):
        await models.load()
    assert models.repository.ready_versions("colour") == ["1", "3"]
    await models.repository.close()


SHADOW = ShadowRule("colour", "2", 0.5)


async def test_a_shadow_that_fails_keeps_nobody_from_coming_and_going(tmp_path: Path) -> None:
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


async def test_a_shadow_that_is_wanted_alone_must_be_there(tmp_path: Path) -> None:
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
async def test_a_shadow_that_cannot_be_there_is_told_at_the_start(
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


async def test_a_contract_that_cannot_be_read_changes_nothing_and_is_told(models: Models) -> None:
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
async def test_what_is_asked_wins_over_the_setting_and_that_over_the_contract(
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


async def test_versions_that_are_not_listed_are_refused_before_anything_is_known_of_them(
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


async def test_a_policy_of_the_operator_shows_what_the_contract_does_not_list(
    tmp_path: Path,
) -> None:
    write_versions(tmp_path, "1")
    models = await opened(tmp_path, parse_version_policy("specific:1,7"))
    not_listed = (UNAVAILABLE, "config.json does not list it")
    assert models.states() == {"1": (READY, None), "7": not_listed}
    assert models.repository.not_ready() == []
    await models.repository.close()


async def test_what_is_refused_of_an_unloaded_model_leaves_it_unloaded(models: Models) -> None:
    await models.repository.unload("colour")
    with pytest.raises(LoadFailed):
        await models.load("specific:7")
    assert models.states() == {"1": (UNAVAILABLE, "unloaded")}
    assert models.repository.not_ready() == []


async def test_an_unloaded_model_answers_who_is_there_and_refuses_who_comes(
    models: Models,
) -> None:
    instance = models.find()
    with held(instance):
        unloading = asyncio.create_task(models.repository.unload("colour"))
        await until(lambda: models.states()["1"][0] is UNLOADING)
        with pytest.raises(ModelNotReady, match="colour version 1 is unloading"):
            models.find()
        assert sessions_of(instance)
    await unloading
    assert not sessions_of(instance)
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


async def test_a_load_goes_on_when_its_caller_leaves(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loading = models.load()
    await until(lambda: models.loader.begun == ["2"])
    loading.cancel()
    await asyncio.gather(loading, return_exceptions=True)
    models.loader.gate.set()
    await until(lambda: models.states() == {"1": (UNAVAILABLE, "unloaded"), "2": (READY, None)})


async def test_changes_of_a_model_are_made_one_after_the_other(models: Models) -> None:
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


async def test_a_folder_that_appeared_can_be_loaded_and_one_that_went_is_forgotten(
    models: Models,
) -> None:
    folder = write_classifier(models.path, "hue")
    with pytest.raises(ModelNotFound):
        models.repository.get("hue")
    await models.repository.load("hue")
    assert models.repository.ready_versions("hue") == ["1"]
    (folder / "config.json").unlink()
    await models.repository.unload("hue")
    with pytest.raises(ModelNotFound, match="no model hue; there are colour"):
        models.repository.get("hue")


async def test_a_new_model_counts_for_readiness_once_it_served(models: Models) -> None:
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


async def test_where_no_model_serves_every_one_counts_that_is_not_unloaded(
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


async def test_closing_ends_a_load_that_is_under_way(models: Models) -> None:
    write_versions(models.path, "1", "2")
    models.loader.gate.clear()
    loading = models.load()
    await until(lambda: models.loader.begun == ["2"])
    instance = models.find()
    await models.repository.close()
    assert loading.cancelled() or loading.cancelling() or loading.done()
    assert not sessions_of(instance)


async def test_each_load_and_release_is_one_line_of_the_log(models: Models) -> None:
    write_versions(models.path, "1", "2")
    with structlog.testing.capture_logs() as lines:
        await models.load()
        await models.repository.unload("colour")
    usual = [line for line in lines if line["log_level"] != "debug"]
    told = [(line["event"], line["version"]) for line in usual if "version" in line]
    assert told == [("model_ready", "2"), ("model_unloaded", "1"), ("model_unloaded", "2")]


def classify(service: Running, query: str = "") -> "asyncio.Task[object]":
    return asyncio.create_task(service.http.post(f"/v1/classify{query}", content=PHOTO))


async def test_a_request_that_runs_during_a_swap_is_answered_by_the_version_it_found(
    start: Start, repository: Path
) -> None:
    async with start() as service:
        write_versions(repository, "1", "2")
        gate = service.gate("colour")
        first = classify(service)
        await gate.begun()
        models = service.parts.repository
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


async def test_nobody_is_refused_while_versions_come_and_go(start: Start, repository: Path) -> None:
    write_versions(repository, "1", "2")
    async with start(cores=2) as service:
        models, statuses, stop = service.parts.repository, [], asyncio.Event()

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
