"""The models on disk and in memory: find, load in the background, name, unload."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

import structlog

from service.batching.instance import ModelInstance
from service.errors import (
    InvalidConfiguration,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
)
from service.repository.entry import LoadVersion, ModelEntry
from service.repository.scan import entry_folders, has_contract
from service.repository.version import ModelVersion
from service.schema.contract import Contract
from service.schema.model_status import ModelDetail
from service.schema.shadow_rule import ShadowRule
from service.schema.version_policy import VersionPolicy
from service.schema.vocabulary import ModelState, Task
from service.telemetry.events import ModelEvents

DRAIN_SECONDS = 30.0

_log = structlog.get_logger()


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
        events: ModelEvents,
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
        self._entries = {
            folder.name: self._entry(folder, is_required=True) for folder in _folders(path)
        }

    def _entry(self, folder: Path, *, is_required: bool) -> ModelEntry:
        return ModelEntry(
            folder,
            self._one_at_a_time,
            self._events,
            is_required=is_required,
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

    def detail(self, name: str, version: str | None = None) -> ModelDetail:
        """Return what clients may know of a version, with the files that it was loaded from."""
        entry = self._named(name)
        return entry.version(version).detail(entry.refusal)

    def version_policy(self, name: str) -> VersionPolicy:
        """Return the policy of a model that is in force."""
        return self._named(name).policy

    def ready_versions(self, name: str) -> list[str]:
        """List the versions of a model that serve, in ascending order."""
        return self._named(name).ready_versions

    def find(self, task: Task, name: str | None, version: str | None) -> ModelVersion:
        """Return the version that a prediction request means, whether or not it serves."""
        entry = self._only(task) if name is None else self._named(name)
        if entry.current.task not in (task, None):
            raise InvalidRequest(f"The model {entry.name} does {entry.current.task}, not {task}.")
        return entry.version(version)

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
        One that came after the start and never served is only where no model serves at all.
        """
        wanted = [entry for entry in self._entries.values() if not entry.is_unloaded]
        waiting = [entry for entry in wanted if not entry.current.is_ready]
        required = [entry for entry in waiting if entry.is_required]
        serves_nothing = len(waiting) == len(wanted)
        return [entry.current for entry in (waiting if serves_nothing else required)]

    def serves_without(self, name: str) -> bool:
        """Whether anything but this model serves."""
        return any(each.ready_versions for each in self._entries.values() if each.name != name)

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
        if self._shadow is not None and self._shadow.model not in self._entries:
            _log.warning(
                "shadow_not_loaded",
                model=self._shadow.model,
                version=self._shadow.version,
                reason="the repository has no such model",
            )
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
            LoadFailed: something could not be loaded; what served before still does, unchanged.
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
        if not await asyncio.to_thread(has_contract, entry.folder):
            self._entries.pop(entry.name, None)

    async def _discover(self, name: str) -> None:
        try:
            folders = await asyncio.to_thread(entry_folders, self.path)
        except OSError as error:
            _log.error("repository_unreadable", reason=str(error))
            raise LoadFailed(
                f"The model {name} cannot be loaded: the model repository cannot be read."
            ) from error
        for folder in folders:
            if folder.name == name:
                self._entries.setdefault(name, self._entry(folder, is_required=False))

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


def _folders(path: Path) -> list[Path]:
    try:
        folders = entry_folders(path)
    except OSError as error:
        raise InvalidConfiguration(
            f"The model repository {path} cannot be read: {error.strerror}."
        ) from error
    if not folders:
        raise InvalidConfiguration(f"The model repository {path} holds no <model>/config.json.")
    return folders
