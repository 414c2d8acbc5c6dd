"""What a request finds, before and after each change of a model's state."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import service
from service.errors import InvalidRequest, LoadFailed, ModelNotFound, ModelNotReady, ServiceError
from service.repository.repository import ModelRepository
from service.schema.contract import Contract
from service.schema.shadow_rule import parse_shadow_rule
from service.schema.version_policy import parse_version_policy
from service.schema.vocabulary import Task
from service.telemetry.events import ModelBuild, ModelIdentity
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import until
from tests.service.repository_fixture import (
    list_versions,
    segmentation_config,
    write_classifier,
    write_segmenter,
    write_versions,
)

CLASSIFICATION, SEGMENTATION = Task.CLASSIFICATION, Task.SEGMENTATION
HUNG = "a batch hangs"


class FakeInstance:
    """Serves nothing; its outage and the end of its last request are up to the test."""

    def __init__(self, contract: Contract, version: str) -> None:
        self.identity = ModelIdentity(contract.name, version, contract.task)
        self.contract = contract
        self.build = ModelBuild("fp32", "cpu", "cpu", "0" * 64)
        self.outage: str | None = None
        self.on_outage: Callable[[], None] = lambda: None
        self.drained = asyncio.Event()
        self.drained.set()

    def change_outage(self, outage: str | None) -> None:
        self.outage = outage
        self.on_outage()

    async def drain(self, _seconds: float) -> None:
        await self.drained.wait()

    async def close(self) -> None:
        pass


class Models:
    """A repository whose loads wait for a gate."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.gate = asyncio.Event()
        self.begun: list[str] = []
        self.repository = ModelRepository(path, self._load, PrometheusMetrics().models, **options)

    async def _load(self, _: Path, contract: Contract, version: str) -> FakeInstance:
        self.begun.append(version)
        await self.gate.wait()
        return FakeInstance(contract, version)

    def load(self, name: str = "colour") -> "asyncio.Task[None]":
        return asyncio.create_task(self.repository.load(name))

    def unload(self, name: str = "colour") -> "asyncio.Task[None]":
        return asyncio.create_task(self.repository.unload(name))

    def instance(
        self,
        name: str | None = None,
        version: str | None = None,
        task: Task | None = CLASSIFICATION,
    ) -> Any:
        return self.repository.find(task, name, version).ready_instance()

    def found(self, *request: Any) -> str:
        """The model and version that a request finds, or the sentence that it gets."""
        try:
            identity = self.instance(*request).identity
        except ServiceError as error:
            return str(error)
        return f"{identity.name} {identity.version}"

    def found_by_default(self) -> str:
        """What a request finds that names no version, whether or not it names the model."""
        found = self.found()
        assert self.found("colour") == found
        return found


async def loaded(path: Path, **options: Any) -> Models:
    models = Models(path, **options)
    models.gate.set()
    await models.repository.load_all()
    return models


ALL = {"policy": parse_version_policy("all")}


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[Models]:
    """One classifier, `colour`, that serves its version 1."""
    write_versions(tmp_path, "1")
    models = await loaded(tmp_path)
    yield models
    models.gate.set()
    await models.repository.close()


async def test_a_model_is_found_as_soon_as_it_is_loaded(tmp_path: Path) -> None:
    write_versions(tmp_path, "1")
    models = Models(tmp_path)
    assert models.found() == "The models are loading."
    loading = asyncio.create_task(models.repository.load_all())
    await until(lambda: models.begun == ["1"])
    assert models.found_by_default() == "The model colour version 1 is loading."
    models.gate.set()
    await loading
    assert models.found_by_default() == "colour 1"


async def test_a_new_version_is_found_before_the_old_one_has_ended(models: Models) -> None:
    old = models.instance()
    old.drained.clear()
    write_versions(models.path, "1", "2")
    models.gate.clear()
    loading = models.load()
    await until(lambda: models.begun == ["1", "2"])
    assert models.found_by_default() == "colour 1"
    assert models.found("colour", "2") == "The model colour version 2 is loading."
    models.gate.set()
    await until(lambda: models.found_by_default() == "colour 2")
    await until(lambda: models.found("colour", "1") == "The model colour version 1 is unloading.")
    assert not loading.done()
    old.drained.set()
    await loading
    assert models.found("colour", "1") == "The model colour version 1 is unloaded."
    assert models.found_by_default() == "colour 2"


async def test_the_instance_that_replaces_another_of_its_version_is_found(models: Models) -> None:
    old = models.instance()
    write_versions(models.path, "1", labels=["a", "b", "c"])
    await models.load()
    assert models.instance() is models.instance("colour") is not old
    assert models.instance().contract.labels == ["a", "b", "c"]
    old.change_outage(HUNG)
    assert models.found_by_default() == "colour 1"


async def test_a_version_with_an_outage_is_unavailable_until_it_ends(models: Models) -> None:
    instance = models.instance()
    instance.change_outage(HUNG)
    unavailable = f"The model colour version 1 is unavailable: {HUNG}."
    assert models.found_by_default() == models.found("colour", "1") == unavailable
    assert [each.reason for each in models.repository.not_ready()] == [HUNG]
    instance.change_outage(None)
    assert models.found_by_default() == models.found("colour", "1") == "colour 1"
    assert models.repository.not_ready() == []


async def test_another_ready_version_takes_over_during_an_outage(tmp_path: Path) -> None:
    write_versions(tmp_path, "1", "2", "3")
    models = await loaded(tmp_path, **ALL)
    instance = models.instance()
    assert models.found_by_default() == "colour 3"
    instance.change_outage(HUNG)
    assert models.found_by_default() == "colour 2"
    with pytest.raises(ModelNotReady, match=HUNG):
        models.instance("colour", "3")
    assert models.repository.not_ready() == []
    instance.change_outage(None)
    assert models.found_by_default() == "colour 3"


async def test_a_version_that_is_replaced_during_its_outage_is_found_again(models: Models) -> None:
    models.instance().change_outage(HUNG)
    await models.load()
    assert models.found_by_default() == "colour 1"


async def test_the_shadow_is_found_by_default_only_if_nothing_else_is_ready(
    tmp_path: Path,
) -> None:
    write_versions(tmp_path, "1", "2")
    models = await loaded(tmp_path, shadow=parse_shadow_rule("colour:2@0.5"))
    first = models.instance()
    assert models.found_by_default() == "colour 1"
    assert models.found("colour", "2") == "colour 2"
    first.change_outage(HUNG)
    assert models.found_by_default() == "colour 2"
    first.change_outage(None)
    assert models.found_by_default() == "colour 1"


async def test_a_model_is_not_found_once_it_is_being_unloaded(models: Models) -> None:
    instance = models.instance()
    instance.drained.clear()
    unloading = models.unload()
    await until(lambda: models.found("colour", "1").endswith("is unloading."))
    assert models.found_by_default() == "The model colour version 1 is unloading."
    instance.drained.set()
    await unloading
    assert models.found_by_default() == "The model colour version 1 is unloaded."
    await models.load()
    assert models.found_by_default() == "colour 1"


async def test_a_contract_that_is_refused_leaves_what_serves(models: Models) -> None:
    config = models.path / "colour" / "config.json"
    config.write_text("{")
    with pytest.raises(LoadFailed):
        await models.load()
    assert models.found_by_default() == "colour 1"
    await models.unload()
    assert models.found_by_default() == "The model colour version 1 is unloaded."


async def test_a_model_whose_first_contract_was_refused_is_found_once_it_is_loaded(
    tmp_path: Path,
) -> None:
    write_versions(tmp_path, "1")
    config = tmp_path / "colour" / "config.json"
    whole = config.read_text()
    config.write_text("{")
    models = await loaded(tmp_path)
    assert "config.json is not valid" in models.found("colour")
    assert models.found().startswith("No classification model is loaded; the task of colour")
    config.write_text(whole)
    await models.load()
    assert models.found_by_default() == "colour 1"


async def test_a_model_that_was_added_is_found_and_must_be_named(models: Models) -> None:
    folder = write_classifier(models.path, "hue")
    with pytest.raises(ModelNotFound):
        models.instance("hue")
    await models.load("hue")
    assert (models.found("hue"), models.found("colour")) == ("hue 1", "colour 1")
    with pytest.raises(InvalidRequest, match="colour, hue"):
        models.instance()
    (folder / "config.json").unlink()
    await models.unload("hue")
    assert models.found_by_default() == "colour 1"
    with pytest.raises(ModelNotFound):
        models.instance("hue")


async def test_a_model_must_be_named_while_another_of_its_task_is_loading(models: Models) -> None:
    write_classifier(models.path, "hue")
    models.gate.clear()
    loading = models.load("hue")
    await until(lambda: len(models.begun) == 2)
    with pytest.raises(InvalidRequest, match="colour, hue"):
        models.instance()
    assert models.found("colour") == "colour 1"
    models.gate.set()
    await loading


async def test_one_of_two_models_need_not_be_named_while_the_other_has_an_outage(
    models: Models,
) -> None:
    write_classifier(models.path, "hue")
    await models.load("hue")
    hue = models.instance("hue")
    hue.change_outage(HUNG)
    assert models.found() == "colour 1"
    hue.change_outage(None)
    with pytest.raises(InvalidRequest, match="colour, hue"):
        models.instance()


async def test_models_of_different_tasks_need_not_be_named(models: Models) -> None:
    write_segmenter(models.path)
    await models.load("pixels")
    assert models.found_by_default() == "colour 1"
    assert models.found(None, None, SEGMENTATION) == "pixels 1"
    with pytest.raises(InvalidRequest, match="colour does classification, not segmentation"):
        models.instance("colour", None, SEGMENTATION)


async def test_a_model_whose_task_changed_is_found_by_the_new_one(models: Models) -> None:
    list_versions(models.path / "colour", segmentation_config("colour"), "1")
    await models.load()
    assert models.found(None, None, SEGMENTATION) == "colour 1"
    with pytest.raises(ModelNotFound, match="no classification model"):
        models.instance()
    with pytest.raises(InvalidRequest, match="colour does segmentation, not classification"):
        models.instance("colour")


@pytest.mark.parametrize("name", [None, "colour"])
async def test_finding_a_ready_instance_takes_two_calls(models: Models, name: str | None) -> None:
    folder, calls = str(Path(service.__file__).parent), []

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(folder):
            calls.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        models.repository.find(CLASSIFICATION, name, None).ready_instance()
    finally:
        sys.setprofile(None)
    assert calls == ["find", "ready_instance"]


async def test_a_request_of_any_task_finds_the_only_model(models: Models, tmp_path: Path) -> None:
    assert models.found(None, None, None) == models.found("colour", None, None) == "colour 1"
    assert models.found("colour", "2", None) == models.found("colour", "2", CLASSIFICATION)
    write_segmenter(tmp_path)
    await models.load("pixels")
    assert models.found(None, None, None) == "Name one of the models in `model`: colour, pixels."
    assert models.found("pixels", None, None) == "pixels 1"
    assert models.found("lions", None, None).startswith("There is no model lions")
