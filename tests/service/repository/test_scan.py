import errno
import os
from pathlib import Path

import pytest

from service.file_watch import Stamp, stamp
from service.repository.scan import entry_folders, has_contract, scan


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models, a folder without a contract, a file, and a link to itself."""
    for name in ("hue", "colour", "empty"):
        (tmp_path / name).mkdir()
    for name in ("hue", "colour"):
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "README.md").write_text("models")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.fixture
def fail(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`colour` may not be accessed; the contract of `hue` cannot be read."""
    numbers = {"colour": errno.EACCES, "hue": errno.ESTALE}

    def look(path: Path) -> Stamp:
        if path.parent.name in numbers:
            raise OSError(numbers[path.parent.name], os.strerror(numbers[path.parent.name]))
        return stamp(path)

    monkeypatch.setattr("service.repository.scan.stamp", look)


def test_folders_with_a_contract_are_found(repository: Path) -> None:
    stamps = {name: stamp(repository / name / "config.json") for name in ("colour", "hue")}
    assert scan(repository) == stamps
    assert entry_folders(repository) == [repository / "colour", repository / "hue"]
    assert [has_contract(repository / name) for name in ("hue", "empty")] == [True, False]


@pytest.mark.usefixtures("fail")
def test_a_contract_that_cannot_be_read_is_not_a_missing_one(repository: Path) -> None:
    found = scan(repository)
    assert {name: type(each) for name, each in found.items()} == {
        "colour": PermissionError,
        "hue": OSError,
    }
    assert entry_folders(repository) == [repository / "hue"]
    assert [has_contract(repository / name) for name in ("hue", "colour")] == [True, True]


def test_a_repository_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    for look in (scan, entry_folders):
        with pytest.raises(FileNotFoundError):
            look(tmp_path / "nothing")
