"""Write to the model repository: a version is published whole or not at all."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from model_export.entry.version import (
    CERTIFICATE,
    CONTRACT,
    EXAMPLES,
    MODEL_CARD,
    Version,
    read_contract,
)
from model_export.files import write_atomically


@contextmanager
def staged_folder(weights: Path, name: str) -> Iterator[Path]:
    """A temporary folder on the file system of the repository, removed afterwards."""
    weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=weights, prefix=f".{name}-") as folder:
        staged = Path(folder) / "version"
        staged.mkdir()
        yield staged


def publish(
    weights: Path,
    staged: Path,
    *,
    contract: Mapping[str, Any],
    certificate: Mapping[str, Any],
    origin: Mapping[str, Any],
    card: str,
    examples: Sequence[Path],
) -> Path:
    """Move a finished version into the repository and return its folder.

    The contract is written last: until it lists the version, the version does not exist.
    """
    entry, version = weights / str(contract["name"]), str(certificate["version"])
    (staged / CERTIFICATE).write_bytes(_json(certificate))
    entry.mkdir(exist_ok=True)
    if examples:
        _copy(examples, entry / EXAMPLES)
    if not (entry / MODEL_CARD).exists():
        write_atomically(entry / MODEL_CARD, card.encode())
    staged.replace(entry / version)
    versions = {**(read_contract(entry) or contract)["versions"], version: {"provenance": origin}}
    _list_version(entry, {**contract, "versions": versions}, version, certificate)
    return entry / version


def record(version: Version, certificate: Mapping[str, Any], **facts: Any) -> None:
    """Replace the certificate of a version, and its hash and these facts in the contract."""
    write_atomically(version.folder / CERTIFICATE, _json(certificate))
    _list_version(version.folder.parent, version.contract, version.version, certificate, **facts)


def _copy(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        if path.resolve().parent != folder.resolve():  # a new version may use the entry's own
            shutil.copyfile(path, folder / path.name)


def _list_version(
    entry: Path,
    contract: Mapping[str, Any],
    version: str,
    certificate: Mapping[str, Any],
    **facts: Any,
) -> None:
    digest = hashlib.sha256(_json(certificate)).hexdigest()
    listed = {**contract["versions"][version], "certificate_sha256": digest, **facts}
    versions = {**contract["versions"], version: listed}
    write_atomically(entry / CONTRACT, _json({**contract, "versions": versions}))


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
