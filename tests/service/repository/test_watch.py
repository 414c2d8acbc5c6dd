"""What is loaded and unloaded after contracts change; the tests call the polls."""

import asyncio
import errno
import json
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from service.batching.instance import ModelInstance
from service.file_watch import Stamp, stamp
from service.repository.repository import ModelRepository
from service.repository.watch import RepositoryWatch
from service.schema.contract import Contract
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import Start, until, version_loader
from tests.service.repository_fixture import write_classifier, write_versions


class Watched:
    """A repository that is watched, and the versions that were loaded."""

    def __init__(self, path: Path) -> None:
        metrics = PrometheusMetrics()
        self._load = version_loader(metrics)
        self.loaded: list[str] = []
        self.repository = ModelRepository(path, self._load_version, metrics.models)
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


async def test_an_unchanged_contract_is_not_read_again(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched.repository, "load", None)
    (tmp_path / "colour" / "1" / "model.onnx").touch()
    await watched.watch.poll()
    assert watched.loaded == []


async def test_a_new_version_in_a_contract_is_loaded(watched: Watched, tmp_path: Path) -> None:
    write_versions(tmp_path, "1", "2")
    await watched.watch.poll()
    assert watched.loaded == ["colour 2"]
    assert watched.repository.ready_versions("colour") == ["2"]


async def test_a_change_before_the_first_poll_is_not_missed(tmp_path: Path) -> None:
    write_versions(tmp_path, "1")
    watched = Watched(tmp_path)
    await watched.repository.load_all()
    write_versions(tmp_path, "1", "2")
    await watched.watch.poll()
    assert watched.loaded == ["colour 1", "colour 2"]
    await watched.repository.close()


async def test_a_new_model_is_loaded_once_its_contract_exists(
    watched: Watched, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, "hue")
    (folder / "config.json").rename(folder / "config.json.part")
    await watched.watch.poll()
    assert watched.loaded == []
    (folder / "config.json.part").rename(folder / "config.json")
    await watched.watch.poll()
    assert watched.loaded == ["hue 1"]


async def test_a_failed_load_is_logged_once_and_retried_when_the_contract_changes(
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


@pytest.fixture
async def both(tmp_path: Path, watched: Watched) -> Watched:
    """The same with a second model, `hue`."""
    write_classifier(tmp_path, "hue")
    await watched.watch.poll()
    watched.loaded.clear()
    return watched


async def polled(watched: Watched, times: int) -> list[dict]:
    """Poll several times; return the log lines."""
    with structlog.testing.capture_logs() as lines:
        for _ in range(times):
            await watched.watch.poll()
    return lines


def serving(watched: Watched) -> list[str]:
    return [instance.identity.name for instance in watched.repository.instances()]


def failing(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """Make one file fail with this error."""

    def fail(asked: Path) -> Stamp:
        if asked == path:
            raise OSError(number, os.strerror(number), str(path))
        return stamp(asked)

    monkeypatch.setattr("service.repository.scan.stamp", fail)


async def test_a_model_whose_contract_is_missing_twice_is_unloaded_and_forgotten(
    both: Watched, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "colour")
    await both.watch.poll()
    assert serving(both) == ["colour", "hue"]
    await both.watch.poll()
    assert [row.name for row in both.repository.index()] == ["hue"]
    write_versions(tmp_path, "1")
    await both.watch.poll()
    assert both.repository.ready_versions("colour") == ["1"]


async def test_a_contract_that_is_deleted_and_rewritten_unloads_nothing(
    both: Watched, tmp_path: Path
) -> None:
    old = both.repository.get("colour").instance
    for _ in range(2):
        config = tmp_path / "colour" / "config.json"
        whole = config.read_text()
        config.unlink()
        await both.watch.poll()
        assert both.repository.get("colour").instance is old
        config.write_text(whole)
        await both.watch.poll()
    assert both.repository.get("colour").instance is old


def unmount(path: Path, leaves: str) -> Path:
    """Move the repository away; return its new path."""
    away = path.rename(path.with_name("away"))
    if leaves == "an empty folder":
        path.mkdir()
    return away


@pytest.mark.parametrize("leaves", ["nothing", "an empty folder"])
async def test_a_repository_that_is_temporarily_missing_changes_nothing(
    both: Watched, tmp_path: Path, leaves: str
) -> None:
    away = unmount(tmp_path, leaves)
    lines = await polled(both, 3)
    assert [line["event"] for line in lines] == ["repository_unreadable"]
    assert serving(both) == ["colour", "hue"]
    assert both.repository.not_ready() == []
    away.rename(tmp_path)
    assert await polled(both, 3) == []
    assert both.loaded == []
    (tmp_path / "colour" / "config.json").unlink()
    await polled(both, 2)
    assert serving(both) == ["hue"]


async def test_a_failed_poll_between_two_misses_keeps_the_model(
    both: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tmp_path / "colour")
    await both.watch.poll()
    with monkeypatch.context() as patch:
        patch.setattr("service.repository.watch.scan", unreadable)
        await both.watch.poll()
    await both.watch.poll()
    assert serving(both) == ["colour", "hue"]
    await both.watch.poll()
    assert serving(both) == ["hue"]


def unreadable(path: Path) -> dict:
    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
async def test_a_contract_that_cannot_be_read_unloads_nothing_and_is_logged_once(
    both: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, tmp_path / "colour" / "config.json", number)
        (line,) = await polled(both, 3)
    assert (line["event"], line["model"]) == ("contract_unreadable", "colour")
    assert os.strerror(number) in line["reason"]
    assert await polled(both, 3) == []
    assert serving(both) == ["colour", "hue"]
    assert both.loaded == []


async def test_the_last_ready_model_is_kept(both: Watched, tmp_path: Path) -> None:
    await both.repository.unload("hue")
    shutil.rmtree(tmp_path / "colour")
    (line,) = await polled(both, 4)
    assert (line["event"], line["model"]) == ("contract_unreadable", "colour")
    assert serving(both) == ["colour"]
    await both.repository.load("hue")
    await both.watch.poll()
    assert serving(both) == ["hue"]


async def test_if_all_contracts_disappear_together_one_model_is_kept(
    both: Watched, tmp_path: Path
) -> None:
    folder = write_classifier(tmp_path, "broken")
    (folder / "1" / "model.onnx").write_bytes(b"half a file")
    for name in ("colour", "hue"):
        shutil.rmtree(tmp_path / name)
    await polled(both, 3)
    assert serving(both) == ["hue"]


async def test_an_unexpected_error_is_logged_and_the_watch_goes_on(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = asyncio.Queue[None]()
    watch = RepositoryWatch(watched.repository, 1.0, lambda _: polls.get())
    for name in ("amber", "hue"):
        write_classifier(tmp_path, name)
    load = watched.repository.load

    async def fail(name: str) -> None:
        if name == "amber":
            raise OSError(errno.EIO, "the share is away")
        await load(name)

    monkeypatch.setattr(watched.repository, "load", fail)
    with structlog.testing.capture_logs() as lines:
        running = asyncio.create_task(watch.run())
        for _ in range(2):
            polls.put_nowait(None)
        await until(lambda: "hue" in serving(watched))
    assert [line["event"] for line in lines if line["log_level"] == "error"] == [
        "repository_watch_failed"
    ]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_repository_that_cannot_be_read_at_first_is_still_watched(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("service.repository.watch.scan", unreadable)
        watched.watch = RepositoryWatch(watched.repository, 1.0)
    write_versions(tmp_path, "1", "2")
    await watched.watch.poll()
    assert watched.loaded == ["colour 2"]


async def test_the_watch_polls_after_each_sleep(watched: Watched, tmp_path: Path) -> None:
    asked, polls = [], asyncio.Queue[None]()

    async def sleep(seconds: float) -> None:
        asked.append(seconds)
        await polls.get()

    watch = RepositoryWatch(watched.repository, 7.5, sleep)
    running = asyncio.create_task(watch.run())
    write_versions(tmp_path, "1", "2")
    polls.put_nowait(None)
    await until(lambda: watched.repository.ready_versions("colour") == ["2"])
    assert asked[0] == 7.5
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_repository_is_watched_only_if_it_is_set(start: Start) -> None:
    async with start() as service:
        assert service.engine.watch is None
    async with start(repository_poll_seconds=2) as service:
        assert service.engine.watch is not None
