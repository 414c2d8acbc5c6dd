import errno
import os
from pathlib import Path

import pytest

from service.errors import (
    InvalidConfiguration,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
)
from service.repository.repository import ModelRepository
from service.schema.vocabulary import ModelState, Task
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import version_loader
from tests.service.repository_fixture import (
    classification_config,
    classification_graph,
    golden_arrays,
    list_versions,
    segmentation_config,
    segmentation_graph,
    write_classifier,
    write_config,
    write_entry,
)

CLASSIFICATION, SEGMENTATION = Task.CLASSIFICATION, Task.SEGMENTATION


def open_repository(path: Path) -> ModelRepository:
    metrics = PrometheusMetrics()
    return ModelRepository(path, version_loader(metrics), metrics.models)


async def loaded(path: Path) -> ModelRepository:
    repository = open_repository(path)
    await repository.load_all()
    return repository


async def refusal(path: Path, name: str) -> str:
    """The reason why a model is refused."""
    repository = await loaded(path)
    entry = repository.get(name)
    assert entry.state is ModelState.UNAVAILABLE
    assert [version.describe() for version in repository.not_ready()] == [entry.describe()]
    assert str(path) not in (entry.reason or "")
    with pytest.raises(ModelNotReady, match="is unavailable"):
        entry.ready_instance()
    return entry.reason or ""


@pytest.mark.parametrize("make", [False, True])
def test_a_repository_without_models_fails_at_start_up(tmp_path: Path, make: bool) -> None:
    path = tmp_path / "weights"
    if make:
        (path / "model-without-config").mkdir(parents=True)
    with pytest.raises(InvalidConfiguration, match="model repository"):
        open_repository(path)


def test_a_repository_that_cannot_be_read_fails_at_start_up(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> list:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("service.repository.repository.entry_folders", fail)
    with pytest.raises(InvalidConfiguration, match=r"cannot be read: Input/output error\.$"):
        open_repository(repository)


async def test_models_are_loading_then_ready(repository: Path) -> None:
    models = open_repository(repository)
    assert [version.state for version in models.wanted()] == [ModelState.LOADING] * 2
    with pytest.raises(ModelNotReady, match="loading"):
        models.find(CLASSIFICATION, None, None)
    await models.load_all()
    assert models.not_ready() == []
    assert models.find(CLASSIFICATION, None, None).ready_instance().identity.name == "colour"
    assert models.find(SEGMENTATION, None, None).ready_instance().identity.name == "pixels"


async def test_the_status_has_labels_precision_and_provider(repository: Path) -> None:
    status = (await loaded(repository)).get("colour").status().model_dump()
    assert status.pop("batching")["measured_at"] == (8, 8)
    assert status == {
        "name": "colour",
        "version": "1",
        "task": "classification",
        "state": "READY",
        "reason": None,
        "labels": ["red", "green", "blue"],
        "precision": "fp32",
        "execution_provider": {
            "requested": "CPUExecutionProvider",
            "active": "CPUExecutionProvider",
            "nodes_on_cpu": 0,
        },
        "accuracy": None,
    }


async def test_only_the_newest_listed_version_is_served(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    config = classification_config("colour")
    write_entry(tmp_path, config, classification_graph(0.1), "10", golden_arrays(config, 0.1))
    list_versions(folder, config, "1", "10")
    (folder / "99").mkdir()
    models = await loaded(tmp_path)
    assert models.find(CLASSIFICATION, "colour", None).ready_instance().identity.version == "10"
    assert models.find(CLASSIFICATION, "colour", "10").is_ready
    assert models.find(CLASSIFICATION, None, "10").is_ready
    with pytest.raises(ModelNotReady, match="colour version 1 is unloaded"):
        models.find(CLASSIFICATION, "colour", "1").ready_instance()
    for version in ("99", "x"):
        with pytest.raises(ModelNotFound, match=r"no version [9x]+; its versions are 1, 10"):
            models.find(CLASSIFICATION, "colour", version)


async def test_an_unknown_model_is_not_found(repository: Path) -> None:
    models = await loaded(repository)
    with pytest.raises(ModelNotFound, match="no model other; the models are colour, pixels"):
        models.find(CLASSIFICATION, "other", None)


async def test_the_message_says_if_the_repository_has_no_models(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    repository = await loaded(tmp_path)
    (folder / "config.json").unlink()
    await repository.unload("colour")
    with pytest.raises(ModelNotFound, match="no model colour; the repository has no models"):
        repository.get("colour")
    with pytest.raises(
        ModelNotFound, match="no classification model; the repository has no models"
    ):
        repository.find(CLASSIFICATION, None, None)


async def test_a_model_of_another_task_is_refused(repository: Path) -> None:
    models = await loaded(repository)
    with pytest.raises(InvalidRequest, match="colour does classification, not segmentation"):
        models.find(SEGMENTATION, "colour", None)


async def test_one_of_several_models_must_be_named(repository: Path) -> None:
    write_classifier(repository, "hue")
    models = await loaded(repository)
    with pytest.raises(InvalidRequest, match=r"Name one of the .*: colour, hue"):
        models.find(CLASSIFICATION, None, None)
    assert models.find(CLASSIFICATION, "hue", None).ready_instance().identity.name == "hue"


async def test_a_task_without_a_model_is_not_found(tmp_path: Path) -> None:
    write_classifier(tmp_path)
    with pytest.raises(ModelNotFound, match="no segmentation model"):
        (await loaded(tmp_path)).find(SEGMENTATION, None, None)


async def test_a_changed_graph_is_refused_while_the_other_model_serves(repository: Path) -> None:
    graph = repository / "colour" / "1" / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[-1] ^= 1
    graph.write_bytes(data)
    assert "model.onnx does not have the SHA-256" in await refusal(repository, "colour")
    models = await loaded(repository)
    assert models.get("pixels").state is ModelState.READY
    with pytest.raises(ModelNotReady, match="colour version 1 is unavailable"):
        models.find(CLASSIFICATION, None, None).ready_instance()


async def test_an_invalid_contract_is_reported_under_the_folders_name(repository: Path) -> None:
    (repository / "colour" / "config.json").write_text("{")
    assert "config.json is not valid" in await refusal(repository, "colour")


async def test_a_listed_version_without_a_folder_is_refused(repository: Path) -> None:
    write_config(repository / "colour", classification_config("colour"), {"2": b""})
    assert "certificate.json cannot be read" in await refusal(repository, "colour")


async def test_a_graph_with_other_tensors_than_the_contract_is_refused(tmp_path: Path) -> None:
    write_entry(tmp_path, classification_config("colour"), segmentation_graph())
    assert "the graph's outputs are labels" in await refusal(tmp_path, "colour")


async def test_a_graph_of_another_shape_than_the_contract_is_refused(tmp_path: Path) -> None:
    write_entry(tmp_path, segmentation_config("pixels"), segmentation_graph(channels=4))
    reason = await refusal(tmp_path, "pixels")
    assert "images is UINT8 [-1, -1, -1, 4], config.json says UINT8 [-1, -1, -1, 3]" in reason


async def test_a_file_that_is_not_a_graph_is_refused(tmp_path: Path) -> None:
    write_entry(tmp_path, segmentation_config("pixels"), b"no graph")
    assert "ONNX Runtime cannot load the graph" in await refusal(tmp_path, "pixels")


async def test_the_reason_does_not_show_an_unexpected_error(repository: Path) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("/secret/path")

    models = ModelRepository(repository, fail, PrometheusMetrics().models)
    await models.load_all()
    assert models.get("colour").reason == "an unexpected error; see the server's log"
