"""All models of a repository: finds, loads and unloads them by name."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TypeGuard

import structlog

from service.batching.instance import ModelInstance
from service.errors import InvalidConfiguration, LoadFailed
from service.repository.catalog import Catalog
from service.repository.entry import ModelEntry
from service.repository.scan import entry_folders, has_contract
from service.repository.swap import LoadVersion
from service.schema.contract import Contract
from service.schema.shadow_rule import ShadowRule
from service.schema.version_policy import VersionPolicy
from service.telemetry.events import ModelEvents

DRAIN_SECONDS = 30.0

_log = structlog.get_logger()


class ModelRepository(Catalog[ModelEntry]):
    """The entries of a folder, by model name: loads and unloads them.

    `policy` takes precedence over the contracts'. The `shadow`'s version is loaded in addition to
    what the policy wants; requests without a version get it only if no other version is ready. A
    version that is replaced or unloaded has `drain_seconds` to finish its requests.
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
        self._entries: dict[str, ModelEntry] = {}
        super().__init__(self._entries)
        for folder in _folders(path):
            self._entries[folder.name] = self._entry(folder, is_required=True)

    def _entry(self, folder: Path, *, is_required: bool) -> ModelEntry:
        return ModelEntry(
            folder,
            self._one_at_a_time,
            self._events,
            is_required=is_required,
            policy=self._policy,
            shadow=self._shadow.version if _is_of(self._shadow, folder.name) else None,
            drain_seconds=self._drain_seconds,
            changed=self.refresh,
        )

    async def _one_at_a_time(self, folder: Path, contract: Contract, version: str) -> ModelInstance:
        """Load a version alone: loads in parallel would distort each other's calibration."""
        async with self._loading:
            return await self._load_version(folder, contract, version)

    async def load_all(self) -> None:
        """Read every contract, then load the models one by one; a failure affects only one."""
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
            if entry.versions.contract is not None:
                with suppress(LoadFailed):
                    await entry.load()

    async def load(self, name: str, policy: VersionPolicy | None = None) -> None:
        """See `Catalog.load`."""
        if name not in self._entries:
            await self._discover(name)
        await self._complete(self._lookup.entry(name).load(policy))

    async def unload(self, name: str) -> None:
        """See `Catalog.unload`."""
        await self._complete(self._unload(self._lookup.entry(name)))

    async def _unload(self, entry: ModelEntry) -> None:
        """Unload a model, and forget it if it is no longer on disk."""
        await entry.unload()
        if not await asyncio.to_thread(has_contract, entry.folder):
            self._entries.pop(entry.name, None)
            self.refresh()

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
        self.refresh()

    async def _complete(self, change: Coroutine[None, None, None]) -> None:
        """Run a change to its end, even if the caller is cancelled."""
        task = asyncio.create_task(change)
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        await asyncio.shield(task)

    async def close(self) -> None:
        """Stop the changes in progress, and free everything once the last batches have run."""
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
        raise InvalidConfiguration(f"The model repository {path} contains no <model>/config.json.")
    return folders
