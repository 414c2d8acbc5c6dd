"""Watches the contracts of a repository, and loads models whose contract has changed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from service.errors import LoadFailed, ModelNotFound
from service.file_watch import Stamp
from service.repository.repository import ModelRepository
from service.repository.scan import scan

KEPT = "its config.json is missing, but no other model is ready"

_log = structlog.get_logger()


class RepositoryWatch:
    """Polls each `config.json`, which is written last: the files that it lists are complete.

    A contract is read once each time it changes, even if loading fails. A model is unloaded only
    if its contract is missing in two successive polls; a failing network share never unloads one.
    """

    def __init__(
        self,
        repository: ModelRepository,
        seconds: float,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._repository = repository
        self._seconds = seconds
        self._sleep = sleep
        self._missing: set[str] = set()
        self._reported: Mapping[str, str] = {}
        self._seen: dict[str, Stamp] = {}
        with suppress(OSError):  # the first poll reports it
            self._seen = _stamps(scan(repository.path))

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await self._sleep(self._seconds)
            try:
                await self.poll()
            except Exception as error:
                _log.error("repository_watch_failed", exc_info=error)

    async def poll(self) -> None:
        """Load the models whose contract is new or changed; unload those whose contract is gone.

        Nothing changes while the repository cannot be read or appears empty.
        """
        try:
            found = await asyncio.to_thread(scan, self._repository.path)
        except OSError as error:
            self._ignore(str(error))
            return
        stamps = _stamps(found)
        if self._seen and not stamps:
            self._ignore("no config.json was found")
            return
        before, self._missing = self._missing, self._seen.keys() - found.keys()
        await self._load_changed(stamps)
        kept = await self._unload(self._missing & before)
        unreadable = self._seen.keys() & found.keys() - stamps.keys()
        self._report({name: str(found[name]) for name in unreadable} | dict.fromkeys(kept, KEPT))

    def _ignore(self, reason: str) -> None:
        self._missing = set()
        self._report({"": reason})

    async def _load_changed(self, stamps: Mapping[str, Stamp]) -> None:
        for name in sorted(stamps):
            if self._seen.get(name) != stamps[name]:
                self._seen[name] = stamps[name]
                with suppress(LoadFailed, ModelNotFound):  # already logged
                    await self._repository.load(name)

    async def _unload(self, names: set[str]) -> list[str]:
        """Unload models, except the last ready one; return those that were kept."""
        kept = []
        for name in sorted(names):
            if not self._repository.serves_without(name):
                kept.append(name)
                continue
            del self._seen[name]
            with suppress(ModelNotFound):
                await self._repository.unload(name)
        return kept

    def _report(self, problems: Mapping[str, str]) -> None:
        """Log problems that are new since the last poll, by model; "" stands for the repository."""
        before, self._reported = self._reported, problems
        for name, reason in sorted(problems.items() - before.items()):
            if name:
                _log.warning("contract_unreadable", model=name, reason=reason)
            else:
                _log.warning("repository_unreadable", reason=reason)


def _stamps(found: Mapping[str, Stamp | OSError]) -> dict[str, Stamp]:
    return {name: each for name, each in found.items() if not isinstance(each, OSError)}
