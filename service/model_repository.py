"""The models on disk and in memory: find, load in the background, name, unload."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

from service.contract import Contract
from service.errors import (
    InvalidConfiguration,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
)
from service.events import Events
from service.model_entry import LoadVersion, ModelEntry
from service.model_instance import ModelInstance
from service.model_version import ModelVersion
from service.protocol import ModelState, Task
from service.shadow_rule import ShadowRule
from service.version_policy import VersionPolicy

DRAIN_SECONDS = 30.0


class ModelRepository:
    """Every entry of a folder, by the model's name.

    `policy` wins over the contracts'. The version of the `shadow` is loaded beside what the policy
    wants, and no request without a version gets it while another serves. Draining an instance
    waits for `drain_seconds` at most: no request may live longer.
    """

    def __init__(
        self,
        path: Path,
        load_version: LoadVersion,
        events: Events,
        *,
        policy: VersionPolicy | None = None,
        shadow: ShadowRule | None = None,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        self.path = path
        self._load_version = load_version
        self._events = events
        self._policy = policy
        self._shadow = shadow
        self._drain_seconds = drain_seconds
        self._loading = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._entries = {folder.name: self._entry(folder) for folder in _folders(path)}

    def _entry(self, folder: Path) -> ModelEntry:
        return ModelEntry(
            folder,
            self._one_at_a_time,
            self._events,
            policy=self._policy,
            shadow=self._shadow.version if _is_of(self._shadow, folder.name) else None,
            drain_seconds=self._drain_seconds,
        )

    async def _one_at_a_time(self, folder: Path, contract: Contract, version: str) -> ModelInstance:
        """Load a version while no other is loaded: two would disturb each other's measurements."""
        async with self._loading:
            return await self._load_version(folder, contract, version)

    def get(self, name: str, version: str | None = None) -> ModelVersion:
        """Return what is known of a version; by default of the newest that serves, or should."""
        return self._named(name).version(version)

    def ready_versions(self, name: str) -> list[str]:
        """List the versions of a model that serve, in ascending order."""
        return self._named(name).ready_versions

    def find(self, task: Task, name: str | None, version: str | None) -> ModelInstance:
        """Return the instance that a prediction request means; to be held at once."""
        entry = self._only(task) if name is None else self._named(name)
        if entry.current.task not in (task, None):
            raise InvalidRequest(f"The model {entry.name} does {entry.current.task}, not {task}.")
        return entry.version(version).ready_instance()

    def wanted(self) -> list[ModelVersion]:
        """List every version that serves or should."""
        return [version for entry in self._entries.values() for version in entry.wanted]

    def instances(self) -> list[ModelInstance]:
        """List what serves."""
        return [version.instance for version in self.wanted() if version.instance]

    def index(self) -> list[ModelVersion]:
        """List every version, those that are only on the disk included.

        A model whose contract cannot be read has a row with an empty version.
        """
        return [version for entry in self._entries.values() for version in entry.known]

    def not_ready(self) -> list[ModelVersion]:
        """List what keeps the server from being ready: one version a model.

        A model that somebody unloaded is none of them, nor is one of which another version serves.
        """
        entries = [entry for entry in self._entries.values() if not entry.is_unloaded]
        return [entry.current for entry in entries if not entry.current.is_ready]

    @property
    def _there(self) -> str:
        return f"there are {', '.join(self._entries)}" if self._entries else "there is none at all"

    def _named(self, name: str) -> ModelEntry:
        entry = self._entries.get(name)
        if entry is None:
            raise ModelNotFound(f"There is no model {name}; {self._there}.")
        return entry

    def _only(self, task: Task) -> ModelEntry:
        entries = [each for each in self._entries.values() if each.current.task is task]
        serving = [each for each in entries if each.current.state is not ModelState.UNAVAILABLE]
        if len(serving) > 1:
            names = ", ".join(entry.name for entry in serving)
            raise InvalidRequest(f"Name one of the {task} models in `model`: {names}.")
        if entries:
            return (serving or entries)[0]
        if any(version.state is ModelState.LOADING for version in self.wanted()):
            raise ModelNotReady("The models are loading.")
        raise ModelNotFound(f"There is no {task} model; {self._there}.")

    async def load_all(self) -> None:
        """Read every contract, then load the models one after the other; failures are kept out."""
        entries = list(self._entries.values())
        for entry in entries:
            with suppress(LoadFailed):
                await entry.announce()
        for entry in entries:
            if entry.current.contract is not None:
                with suppress(LoadFailed):
                    await entry.load()

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """Read a model's contract anew and make what serves agree with it and the policy.

        Without a policy the repository's counts, or else the contract's. Goes on to its end if
        the caller leaves.

        Raises:
            ModelNotFound: the repository has no folder of this name with a contract.
            LoadFailed: something could not be loaded; what served before still does.
        """
        if name not in self._entries:
            await self._discover(name)
        await self._finish(self._named(name).load(policy))

    async def unload(self, name: str) -> None:
        """Answer who is there, refuse who comes, free the memory; to the end, as `load` does."""
        await self._finish(self._unload(self._named(name)))

    async def _unload(self, entry: ModelEntry) -> None:
        """A model that is on the disk no more is forgotten."""
        await entry.unload()
        if not await asyncio.to_thread((entry.folder / "config.json").exists):
            self._entries.pop(entry.name, None)

    async def _discover(self, name: str) -> None:
        for folder in await asyncio.to_thread(entry_folders, self.path):
            if folder.name == name:
                self._entries.setdefault(name, self._entry(folder))

    async def _finish(self, change: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Unload everything, once the last batch has run."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)
        for entry in self._entries.values():
            await entry.close()


def _is_of(rule: ShadowRule | None, name: str) -> TypeGuard[ShadowRule]:
    return rule is not None and rule.model == name


def entry_folders(path: Path) -> list[Path]:
    """List the folders that have a contract, by name."""
    return sorted(config.parent for config in path.glob("*/config.json"))


def _folders(path: Path) -> list[Path]:
    if not path.is_dir():
        raise InvalidConfiguration(f"The model repository {path} is not a folder.")
    folders = entry_folders(path)
    if not folders:
        raise InvalidConfiguration(f"The model repository {path} holds no <model>/config.json.")
    return folders
