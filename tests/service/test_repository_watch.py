"""What is loaded because a contract changed. The clock is not looked at: polls are called."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from service.contract import Contract
from service.metrics import PrometheusMetrics
from service.model_instance import ModelInstance
from service.model_repository import ModelRepository
from service.repository_watch import RepositoryWatch
from tests.service.conftest import Start, version_loader
from tests.service.repository_fixture import write_classifier, write_versions


class Watched:
    """A repository that is watched, and what was loaded of it."""

    def __init__(self, path: Path) -> None:
        metrics = PrometheusMetrics()
        self._load = version_loader(metrics)
        self.loaded: list[str] = []
        self.repository = ModelRepository(path, self._load_version, metrics)
        self.watch = RepositoryWatch(self.repository, 1.0)

    async def _load_version(self, folder: Path, contract: Contract, version: str) -> ModelInstance:
        self.loaded.append(f"{folder.name} {version}")
        return await self._load(folder, contract, version)


@pytest.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    write_versions(tmp_path, "1")
    watched = Watched(tmp_path)
    await watched.repository.load_all()
    watched.loaded.clear()
    yield watched
    await watched.repository.close()


async def test_a_contract_that_did_not_change_is_not_read_again(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.model_entry.read_contract", None)
    (tmp_path / "colour" / "1" / "model.onnx").touch()
    await watched.watch.poll()
    assert watched.loaded == []


async def test_a_version_that_the_contract_lists_anew_is_loaded(
    watched: Watched, tmp_path: Path
) -> None:
    write_versions(tmp_path, "1", "2")
    await watched.watch.poll()
    assert watched.loaded == ["colour 2"]
    assert watched.repository.ready_versions("colour") == ["2"]


async def test_a_change_since_the_start_is_not_missed(tmp_path: Path) -> None:
    write_versions(tmp_path, "1")
    watched = Watched(tmp_path)
    await watched.repository.load_all()
    write_versions(tmp_path, "1", "2")
    await watched.watch.poll()
    assert watched.loaded == ["colour 1", "colour 2"]
    await watched.repository.close()


async def test_a_new_model_is_loaded_once_its_contract_is_there(
    watched: Watched, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, "hue")
    (folder / "config.json").rename(folder / "config.json.part")
    await watched.watch.poll()
    assert watched.loaded == []
    (folder / "config.json.part").rename(folder / "config.json")
    await watched.watch.poll()
    assert watched.loaded == ["hue 1"]


async def test_a_failure_is_logged_once_and_tried_again_when_the_contract_changes(
    watched: Watched, tmp_path: Path
) -> None:
    config = tmp_path / "colour" / "config.json"
    whole = config.read_text()
    config.write_text(whole[:40])
    with structlog.testing.capture_logs() as lines:
        await watched.watch.poll()
        await watched.watch.poll()
    assert [line["event"] for line in lines] == ["load_failed"]
    assert watched.repository.ready_versions("colour") == ["1"]
    config.write_text(json.dumps({**json.loads(whole), "labels": ["a", "b", "c"]}))
    await watched.watch.poll()
    assert watched.loaded == ["colour 1"]
    assert watched.repository.get("colour").status().labels == ["a", "b", "c"]


async def test_a_model_whose_contract_is_gone_is_unloaded_and_forgotten(
    watched: Watched, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "colour")
    await watched.watch.poll()
    assert watched.repository.index() == []
    write_versions(tmp_path, "1")
    await watched.watch.poll()
    assert watched.repository.ready_versions("colour") == ["1"]


async def test_it_polls_each_time_that_the_timer_fires(watched: Watched, tmp_path: Path) -> None:
    asked, polls = [], asyncio.Queue[None]()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await polls.get()

    watch = RepositoryWatch(watched.repository, 7.5, sleep)
    running = asyncio.create_task(watch.run())
    write_versions(tmp_path, "1", "2")
    polls.put_nowait(None)
    while watched.repository.ready_versions("colour") != ["2"]:  # noqa: ASYNC110
        await asyncio.sleep(0)
    assert asked[0] == 7.5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_watching_is_only_done_where_it_is_asked_for(start: Start) -> None:
    async with start() as service:
        assert service.parts.watch is None
    async with start(repository_poll_seconds=2) as service:
        assert service.parts.watch is not None
