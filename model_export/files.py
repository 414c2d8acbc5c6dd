"""Files: hash them, list them, replace them atomically."""

import hashlib
import os
import tempfile
from pathlib import Path


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, sorted; empty if the folder does not exist."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def write_atomically(path: Path, content: bytes) -> None:
    """Write to a temporary file in the same folder, then rename it to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
