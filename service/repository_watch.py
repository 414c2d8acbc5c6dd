"""Watches the contracts of a repository, and loads what changed."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from service.errors import LoadFailed, ModelNotFound
from service.file_watch import Stamp, stamp
from service.model_repository import ModelRepository, entry_folders


class RepositoryWatch:
    """Looks at nothing but each `config.json`: it is written last, so what it lists is there.

    A contract is read once for every time that it changes, whatever comes of it.
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
        self._seen = _stamps(repository.path)

    async def run(self) -> None:
        """Poll for ever."""
        while True:
            await self._sleep(self._seconds)
            await self.poll()

    async def poll(self) -> None:
        """Load the models whose contract is new or changed, unload those that have none left."""
        before, now = self._seen, await asyncio.to_thread(_stamps, self._repository.path)
        self._seen = now
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) == now.get(name):
                continue
            change = self._repository.load if name in now else self._repository.unload
            with suppress(LoadFailed, ModelNotFound):  # a failure is logged where it is found
                await change(name)


def _stamps(path: Path) -> dict[str, Stamp]:
    stamps = {folder.name: stamp(folder / "config.json") for folder in entry_folders(path)}
    return {name: found for name, found in stamps.items() if found is not None}
