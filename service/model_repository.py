"""The models on disk and in memory: find, load in the background, name, unload."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from service.contract import Contract, read_contract
from service.errors import (
    InvalidConfiguration,
    InvalidEntry,
    InvalidRequest,
    ModelNotFound,
    ModelNotReady,
)
from service.events import Events
from service.model_instance import ModelInstance
from service.protocol import ExecutionProvider, ModelState, ModelStatus, Task

_log = structlog.get_logger()

Load = Callable[[Path, Contract], ModelInstance]


@dataclass
class ModelEntry:
    """A folder of the repository, and what became of it."""

    folder: Path
    contract: Contract | None = None
    instance: ModelInstance | None = None
    refusal: str | None = None

    @property
    def name(self) -> str:
        """The folder's name, which is the model's."""
        return self.folder.name

    @property
    def version(self) -> str | None:
        """The version that is served, where the contract could be read."""
        return self.contract.newest_version if self.contract else None

    @property
    def task(self) -> Task | None:
        """What the model answers, where its contract could be read."""
        return self.contract.task if self.contract else None

    @property
    def state(self) -> ModelState:
        """Where the version is in its life; one that does not answer is unavailable."""
        if self.reason is not None:
            return ModelState.UNAVAILABLE
        return ModelState.LOADING if self.instance is None else ModelState.READY

    @property
    def reason(self) -> str | None:
        """Why the model does not serve; None where it does, or will."""
        if self.instance is not None and self.instance.is_hung:
            return "a batch has been running for far too long"
        return self.refusal

    def require_version(self, version: str | None) -> None:
        """Refuse a version other than the one that is served; none means any."""
        if version not in (None, self.version) and self.version is not None:
            raise ModelNotFound(f"The model {self.name} is served in version {self.version} only.")

    def ready_instance(self) -> ModelInstance:
        """Return the instance, or say why there is none."""
        if self.instance is None or self.state is not ModelState.READY:
            raise ModelNotReady(f"The model {self.describe()}.")
        return self.instance

    def describe(self) -> str:
        """Say in a few words how the model is."""
        words = f"{self.name} is {self.state.value.lower()}"
        return f"{words}: {self.reason}" if self.reason else words

    def status(self) -> ModelStatus:
        """Return what clients may know."""
        build = self.instance.build if self.instance else None
        return ModelStatus(
            name=self.name,
            version=self.version,
            task=self.task,
            state=self.state,
            reason=self.reason,
            labels=self.contract.labels if self.contract else [],
            precision=build.precision if build else None,
            execution_provider=build
            and ExecutionProvider(requested=build.requested_provider, active=build.active_provider),
            accuracy=build.accuracy if build else None,
            batching=self.instance.batching if self.instance else None,
        )


class ModelRepository:
    """Every entry of a folder, by the model's name."""

    def __init__(self, path: Path, load: Load, events: Events) -> None:
        self._load = load
        self._events = events
        self._entries = {folder.name: ModelEntry(folder) for folder in _folders(path)}

    @property
    def ready(self) -> bool:
        """Whether every entry serves."""
        return all(entry.state is ModelState.READY for entry in self)

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self._entries.values())

    def get(self, name: str, version: str | None = None) -> ModelEntry:
        """Return the entry of this name, and version if one is asked for."""
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"There is no model {name}; there are {_names(self)}.")
        entry.require_version(version)
        return entry

    def find(self, task: Task, name: str | None, version: str | None) -> ModelInstance:
        """Return the instance that a prediction request means."""
        entry = self._only(task) if name is None else self.get(name)
        if entry.task not in (task, None):
            raise InvalidRequest(f"The model {entry.name} does {entry.task}, not {task}.")
        entry.require_version(version)
        return entry.ready_instance()

    def _only(self, task: Task) -> ModelEntry:
        entries = [entry for entry in self if entry.task is task]
        serving = [entry for entry in entries if entry.state is not ModelState.UNAVAILABLE]
        if len(serving) > 1:
            raise InvalidRequest(f"Name one of the {task} models in `model`: {_names(serving)}.")
        if entries:
            return (serving or entries)[0]
        if any(entry.state is ModelState.LOADING for entry in self):
            raise ModelNotReady("The models are loading.")
        raise ModelNotFound(f"There is no {task} model; there are {_names(self)}.")

    async def load(self) -> None:
        """Read every contract, then load the models one after the other; failures are kept out."""
        for entry in self:
            await self._attempt(entry, self._read_contract(entry))
        for entry in self:
            if entry.contract is not None:
                await self._attempt(entry, self._load_newest(entry, entry.contract))

    async def _attempt(self, entry: ModelEntry, step: Coroutine[None, None, None]) -> None:
        try:
            await step
        except InvalidEntry as error:
            self._refuse(entry, str(error), error)
        except Exception as error:
            self._refuse(entry, "it cannot be loaded; the server's log says why", error)
        if entry.version is not None:
            self._events.model_state_changed(entry.name, entry.version, entry.state)

    async def _read_contract(self, entry: ModelEntry) -> None:
        entry.contract = await asyncio.to_thread(read_contract, entry.folder)

    async def _load_newest(self, entry: ModelEntry, contract: Contract) -> None:
        started = time.perf_counter()
        instance = await asyncio.to_thread(self._load, entry.folder, contract)
        entry.instance = instance
        self._report_loaded(instance, time.perf_counter() - started)

    def _report_loaded(self, instance: ModelInstance, seconds: float) -> None:
        self._events.model_loaded(instance.identity, instance.build, seconds, instance)
        _log.info(
            "model_ready",
            model=instance.identity.name,
            version=instance.identity.version,
            precision=instance.build.precision,
            execution_provider=instance.build.active_provider,
            seconds=round(seconds, 3),
        )

    def _refuse(self, entry: ModelEntry, reason: str, error: Exception) -> None:
        entry.refusal = reason
        self._events.model_refused(entry.name)
        _log.error("model_unavailable", model=entry.name, reason=reason, exc_info=error)

    async def close(self) -> None:
        """Unload everything, once the last batch has run."""
        for entry in self:
            if entry.instance is not None:
                await entry.instance.close()


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise InvalidConfiguration(f"The model repository {path} is not a folder.")
    folders = sorted(config.parent for config in path.glob("*/config.json"))
    if not folders:
        raise InvalidConfiguration(f"The model repository {path} holds no <model>/config.json.")
    return folders


def _names(entries: "ModelRepository | list[ModelEntry]") -> str:
    return ", ".join(entry.name for entry in entries)
