import asyncio
import os
from pathlib import Path

import pytest

from service.file_watch import FileWatch


class Watched:
    def __init__(self, *paths: Path) -> None:
        self.changes = 0
        self.watch = FileWatch(paths, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def poll(self) -> int:
        self.watch.poll()
        return self.changes


def test_a_change_is_reported_once(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    watched = Watched(path)
    assert watched.poll() == 0
    path.write_text("three")
    assert (watched.poll(), watched.poll()) == (1, 1)


def test_replacing_removing_or_creating_a_file_is_a_change(tmp_path: Path) -> None:
    path, other = tmp_path / "file", tmp_path / "other"
    path.write_text("one")
    watched = Watched(path)
    other.write_text("two")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)  # same size, same time, another file
    assert watched.poll() == 1
    path.unlink()
    assert watched.poll() == 2
    path.write_text("one")
    assert watched.poll() == 3


def test_a_link_to_another_file_is_a_change(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).write_text(name)
    link, fresh = tmp_path / "link", tmp_path / "fresh"
    link.symlink_to("first")
    watched = Watched(link)
    fresh.symlink_to("second")
    fresh.replace(link)
    assert watched.poll() == 1


async def test_the_watch_polls_after_each_sleep(tmp_path: Path) -> None:
    path = tmp_path / "file"
    changes: list[str] = []
    sleeps = iter(["one", "two"])

    async def sleep(_: float) -> None:
        text = next(sleeps, None)
        if text is None:
            raise asyncio.CancelledError
        path.write_text(text * 2)

    watch = FileWatch([path], lambda: changes.append(path.read_text()), sleep)
    with pytest.raises(asyncio.CancelledError):
        await watch.run()
    assert changes == ["oneone", "twotwo"]
