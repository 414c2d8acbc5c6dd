"""One version of a model in the repository, opened and checked."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from model_export import checkpoint
from model_export.entry.precisions import PRECISIONS, PrecisionName
from model_export.errors import InvalidEntry
from model_export.files import files_in, sha256
from model_export.models.registry import Dimensions, build
from model_export.models.served import ServedModel, served
from model_export.preprocessing import Preprocessing

CONTRACT = "config.json"
CERTIFICATE = "certificate.json"
CHECKPOINT = "checkpoint.safetensors"
MODEL_CARD = "README.md"
EXAMPLES = "examples"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Version:
    """One version of a model in the repository."""

    folder: Path
    name: str
    version: str
    contract: Mapping[str, Any]

    def graph(self, precision: PrecisionName = "fp32") -> Path:
        """The path of a precision's graph, whether or not the file exists."""
        return self.folder / PRECISIONS[precision].graph

    @property
    def weights(self) -> Path:
        """The model repository."""
        return self.folder.parent.parent

    @property
    def checkpoint(self) -> Path:
        """The checkpoint that the graphs were made from."""
        return self.folder / CHECKPOINT

    @property
    def dimensions(self) -> Dimensions:
        """The dimensions of the network."""
        return Dimensions.from_dict(self.contract["dimensions"])

    @property
    def preprocessing(self) -> Preprocessing:
        """The rules that turn a photo into the graph's input."""
        return Preprocessing.from_dict(self.contract["preprocessing"])

    @property
    def examples(self) -> list[Path]:
        """The example photos of the entry."""
        return files_in(self.folder.parent / EXAMPLES)

    def certificate(self) -> dict[str, Any]:
        """The certificate; raises `InvalidEntry` if its hash differs from the contract's."""
        path = self.folder / CERTIFICATE
        content = _read(path)
        listed = self.contract["versions"][self.version]["certificate_sha256"]
        if hashlib.sha256(content).hexdigest() != listed:
            raise InvalidEntry(f"{path} was changed after {CONTRACT} was written")
        return _parsed(path, content)

    def check_files(self) -> None:
        """Compare every file with its hash; raises `InvalidEntry` with the first that differs."""
        for name, facts in self.certificate()["files"].items():
            path = self.folder / name
            if not path.is_file() or sha256(path) != facts["sha256"]:
                raise InvalidEntry(f"{path} is missing or differs from the certified file")

    def network(self) -> nn.Module:
        """The network with the weights of the checkpoint, in evaluation mode."""
        network = build(self.dimensions)
        checkpoint.load_model(network, checkpoint.read(self.checkpoint), self.dimensions)
        return network.eval()

    def served_model(self) -> ServedModel:
        """The network with its normalisation in front and its outputs behind."""
        return served(self.network(), self.preprocessing.mean, self.preprocessing.std)


def open_version(weights: Path, name: str, version: str | None = None) -> Version:
    """Open a version of a model, the newest by default; raises `InvalidEntry`."""
    contract = read_contract(weights / name)
    if contract is None:
        raise InvalidEntry(f"model {name} not found in {weights}")
    versions = _listed_versions(weights / name / CONTRACT, contract)
    chosen = version or versions[-1]
    if chosen not in versions:
        raise InvalidEntry(f"{name} has no version {chosen}; available: {', '.join(versions)}")
    return Version(weights / name / chosen, name, chosen, contract)


def _listed_versions(path: Path, contract: Mapping[str, Any]) -> list[str]:
    """The versions of a contract, oldest first."""
    if contract.get("format_version") != FORMAT_VERSION or not contract.get("versions"):
        raise InvalidEntry(f"{path} is not a contract of format {FORMAT_VERSION} with versions")
    return sorted(contract["versions"], key=int)


def read_contract(entry: Path) -> dict[str, Any] | None:
    """The contract of an entry, or None if the entry does not exist."""
    path = entry / CONTRACT
    return _parsed(path, _read(path)) if path.exists() else None


def next_version(contract: Mapping[str, Any] | None) -> str:
    """The newest version plus 1; 1 for a new model."""
    versions = contract["versions"] if contract else ()
    return str(1 + max(map(int, versions), default=0))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidEntry(f"{path} cannot be read: {error.strerror}") from error


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InvalidEntry(f"{path} is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise InvalidEntry(f"{path} is not a JSON object")
    return data
