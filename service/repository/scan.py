"""Which folders of the repository have a contract, and whether it is the one seen before."""

import errno
from pathlib import Path

from service.file_watch import Stamp, stamp

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


def scan(path: Path) -> dict[str, Stamp | OSError]:
    """Look at the `config.json` of every folder once, by the folder's name.

    A folder without one is left out; where it cannot be told whether there is one, the error says
    why. Raises `OSError` where the repository itself cannot be read.
    """
    found = {folder.name: _look(folder) for folder in path.iterdir()}
    return {name: each for name, each in found.items() if each is not None}


def entry_folders(path: Path) -> list[Path]:
    """List the folders that have a contract, by name; raises `OSError` as `scan` does.

    One that may not be looked at, as a file system's `lost+found`, is none of them; one whose
    contract cannot be read for another reason is.
    """
    found = scan(path)
    return [path / name for name in sorted(found) if not isinstance(found[name], PermissionError)]


def has_contract(folder: Path) -> bool:
    """Whether a folder has a contract; where that cannot be told, it has."""
    return _look(folder) is not None


def _look(folder: Path) -> Stamp | OSError | None:
    try:
        return stamp(folder / "config.json")
    except OSError as error:
        return None if error.errno in _GONE else error
