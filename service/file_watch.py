"""Watches files and calls a function when one of them changes."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

Stamp = tuple[int, int, int]
"""Modification time in nanoseconds, size, and inode of a file."""

SECONDS = 2.0


def stamp(path: Path) -> Stamp:
    """Return the stamp of a file; raises `OSError`."""
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _stamp_if_seen(path: Path) -> Stamp | None:
    try:
        return stamp(path)
    except OSError:
        return None


class FileWatch:
    """Calls `changed`, in a thread, each time a poll finds that a file has changed.

    Symbolic links are followed: files that Kubernetes swaps through a link change as well.
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
        """Poll every two seconds until cancelled."""
        while True:
            await self._sleep(SECONDS)
            await asyncio.to_thread(self.poll)

    def poll(self) -> None:
        """Compare every file with the previous poll."""
        before, self._seen = self._seen, [_stamp_if_seen(path) for path in self._paths]
        if self._seen != before:
            self._changed()
