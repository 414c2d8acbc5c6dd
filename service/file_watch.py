"""Watches a few files, and tells when one of them changed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

Stamp = tuple[int, int, int]
"""When a file was written, its size, and which file it is."""

SECONDS = 2.0


def stamp(path: Path) -> Stamp:
    """Tell one state of a file from another; raises `OSError` where it cannot be seen."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stamp_if_seen(path: Path) -> Stamp | None:
    try:
        return stamp(path)
    except OSError:
        return None


class FileWatch:
    """Calls `changed`, in a thread, once for every time that it finds a file other than it was.

    Links are followed, so that files that are swapped by a link, as Kubernetes does, change too.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        changed: Callable[[], None],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._paths = paths
        self._changed = changed
        self._sleep = sleep
        self._seen = [_stamp_if_seen(path) for path in paths]

    async def run(self) -> None:
        """Look every two seconds, for ever."""
        while True:
            await self._sleep(SECONDS)
            await asyncio.to_thread(self.poll)

    def poll(self) -> None:
        """Look once."""
        before, self._seen = self._seen, [_stamp_if_seen(path) for path in self._paths]
        if self._seen != before:
            self._changed()
