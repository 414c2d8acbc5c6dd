"""Lists the folders of a repository that contain a contract, with the state of each file."""

import errno
from pathlib import Path

from service.file_watch import Stamp, stamp

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def scan(path: Path) -> dict[str, Stamp | OSError]:
    """Return the state of each folder's `config.json`, by the folder's name.

    Folders without the file are left out; if the file's state cannot be read, the value is the
    error. Raises `OSError` if the repository itself cannot be read.
    """
    found = {folder.name: _stamp_or_error(folder) for folder in path.iterdir()}
    return {name: each for name, each in found.items() if each is not None}


def entry_folders(path: Path) -> list[Path]:
    """List the folders that have a contract, by name; raises `OSError` as `scan` does.

    Folders without permission, such as `lost+found`, are left out. A folder whose contract cannot
    be read for another reason is included.
    """
    found = scan(path)
    return [path / name for name in sorted(found) if not isinstance(found[name], PermissionError)]


def has_contract(folder: Path) -> bool:
    """Return whether a folder has a contract, or may have one that cannot be seen."""
    return _stamp_or_error(folder) is not None


def _stamp_or_error(folder: Path) -> Stamp | OSError | None:
    try:
        return stamp(folder / "config.json")
    except OSError as error:
        return None if error.errno in _GONE else error
