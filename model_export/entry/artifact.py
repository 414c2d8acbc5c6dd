"""Entries of the model repository: read them, write them whole or not at all."""

import hashlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from model_export import checkpoint
from model_export.comparison.golden import GOLDEN
from model_export.entry.labels import Labels
from model_export.entry.precisions import PRECISIONS, PrecisionName
from model_export.errors import InvalidEntry
from model_export.models.registry import Dimensions, Task, build
from model_export.models.served import ServedModel, served
from model_export.preprocessing import Preprocessing

CONTRACT = "config.json"
CERTIFICATE = "certificate.json"
CHECKPOINT = "checkpoint.safetensors"
MODEL_CARD = "README.md"
EXAMPLES = "examples"
FORMAT_VERSION = 1
SERVING_DEFAULTS = ("dynamic_batching", "instance_group", "version_policy")
"""What an operator may have changed in a contract: a further version leaves it alone."""
_TOOLS = ("vt-serve", "torch", "onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Version:
    """One version of a model in the repository."""

    folder: Path
    name: str
    version: str
    contract: Mapping[str, Any]

    def graph(self, precision: PrecisionName = "fp32") -> Path:
        """The graph of a precision, which may not be there."""
        return self.folder / PRECISIONS[precision].graph

    @property
    def dimensions(self) -> Dimensions:
        """What the network is built from."""
        return Dimensions.from_dict(self.contract["dimensions"])

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photo becomes the graph's input."""
        return Preprocessing.from_dict(self.contract["preprocessing"])

    @property
    def examples(self) -> list[Path]:
        """The photos that the entry carries."""
        return files_in(self.folder.parent / EXAMPLES)

    def certificate(self) -> dict[str, Any]:
        """The certificate; raises `InvalidEntry` where it is not the one the contract names."""
        path = self.folder / CERTIFICATE
        content = _read(path)
        if hashlib.sha256(content).hexdigest() != self._listed["certificate_sha256"]:
            raise InvalidEntry(f"{path} was changed after the contract was written")
        return _parsed(path, content)

    def check_files(self) -> None:
        """Compare every file with the certificate; raises `InvalidEntry` naming the first."""
        for name, facts in self.certificate()["files"].items():
            path = self.folder / name
            if not path.is_file() or checkpoint.sha256(path) != facts["sha256"]:
                raise InvalidEntry(f"{path} is not the file that the certificate is about")

    def network(self) -> nn.Module:
        """The network with the entry's own checkpoint, in evaluation mode."""
        network = build(self.dimensions)
        stored = checkpoint.read(self.folder / CHECKPOINT)
        checkpoint.load_model(network, stored, self.dimensions)
        return network.eval()

    def served_model(self) -> ServedModel:
        """The same network as it is served: normalisation in front, answers behind."""
        return served(self.network(), self.preprocessing.mean, self.preprocessing.std)

    @property
    def _listed(self) -> Mapping[str, Any]:
        listed: Mapping[str, Any] = self.contract["versions"][self.version]
        return listed


def open_version(weights: Path, name: str, version: str | None = None) -> Version:
    """An entry's version, the newest by default; raises `InvalidEntry`."""
    contract = read_contract(weights / name)
    if contract is None:
        raise InvalidEntry(f"there is no model {name} in {weights}")
    if contract.get("format_version") != FORMAT_VERSION or not contract.get("versions"):
        raise InvalidEntry(
            f"{weights / name / CONTRACT} is no contract of format {FORMAT_VERSION} with versions"
        )
    newest = max(contract["versions"], key=int)
    chosen = version or newest
    if chosen not in contract["versions"]:
        known = ", ".join(sorted(contract["versions"], key=int))
        raise InvalidEntry(f"{name} has no version {chosen}; it has {known}")
    return Version(weights / name / chosen, name, chosen, contract)


def read_contract(entry: Path) -> dict[str, Any] | None:
    """The contract of an entry, or None where there is no such entry."""
    path = entry / CONTRACT
    return _parsed(path, _read(path)) if path.exists() else None


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


def files_in(folder: Path) -> list[Path]:
    """The files of a folder, sorted; none where there is no folder."""
    return sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []


def next_version(contract: Mapping[str, Any] | None) -> str:
    """One after the newest, or 1."""
    versions = contract["versions"] if contract else ()
    return str(1 + max(map(int, versions), default=0))


def make_contract(
    name: str,
    dimensions: Dimensions,
    labels: Labels,
    preprocessing: Preprocessing,
    *,
    max_batch_size: int,
    graph: Path,
) -> dict[str, Any]:
    """The contract of a model without its versions; tensors are read off the graph."""
    proto = onnx.load(graph, load_external_data=False).graph
    segmentation = dimensions.task == "segmentation"
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "task": dimensions.task,
        "platform": "onnxruntime_onnx",
        "max_batch_size": max_batch_size,
        "inputs": [_tensor(value) for value in proto.input],
        "outputs": [_tensor(value) for value in proto.output],
        "labels": list(labels.names),
        "palette": [list(color) for color in labels.palette] if segmentation else None,
        "preprocessing": preprocessing.as_dict(),
        "preprocessing_sha256": preprocessing.sha256,
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "max_queue_size": 256 if dimensions.task == "classification" else 64,
            "default_timeout_microseconds": 30_000_000,
        },
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        "dimensions": dimensions.as_dict(),
        "versions": {},
    }


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """A graph's input or output in the terms of the Open Inference Protocol."""
    tensor = value.type.tensor_type
    datatypes = {int(onnx.TensorProto.UINT8): "UINT8", int(onnx.TensorProto.FLOAT): "FP32"}
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return {"name": value.name, "datatype": datatypes[tensor.elem_type], "shape": shape}


def provenance(source: Path, opset: int) -> dict[str, Any]:
    """Where a version comes from: the checkpoint's hash, the opset, the tools' versions."""
    return {
        "checkpoint_sha256": checkpoint.sha256(source),
        "opset": opset,
        "tools": {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    }


def check_same_model(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Versions of one model differ in their weights alone; raises `InvalidEntry` otherwise."""
    keys = (
        "task",
        "inputs",
        "outputs",
        "labels",
        "palette",
        "preprocessing",
        "dimensions",
        "max_batch_size",
    )
    different = [key for key in keys if old.get(key) != new.get(key)]
    if different:
        raise InvalidEntry(
            f"{new['name']} exists with other {', '.join(different)}; "
            "export under another --name, or remove the old entry"
        )


def precision_section(
    name: PrecisionName, task: Task, providers: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """A certificate's section on a precision, with what was measured on each provider."""
    precision = PRECISIONS[name]
    return {
        "file": precision.graph,
        "golden_outputs": precision.golden_outputs,
        "self_test": asdict(precision.self_test),
        "limits": dict(precision.limits.get(task, {})),
        **more,
        "execution_providers": dict(providers),
    }


@contextmanager
def staged_folder(weights: Path, name: str) -> Iterator[Path]:
    """A folder beside the entries, on the same file system, that is gone afterwards."""
    weights.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=weights, prefix=f".{name}-") as folder:
        staged = Path(folder) / "version"
        staged.mkdir()
        yield staged


def make_certificate(
    name: str, version: str, folder: Path, precisions: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate over the graphs and the checkpoint that stand in a folder."""
    return {
        "format_version": FORMAT_VERSION,
        "model": name,
        "version": version,
        "golden": GOLDEN,
        "files": certified_files(folder),
        "precisions": dict(precisions),
    }


def certified_files(folder: Path) -> dict[str, Any]:
    """SHA-256 and size of every file of a version but the certificate itself."""
    return {
        path.name: {"sha256": checkpoint.sha256(path), "bytes": path.stat().st_size}
        for path in files_in(folder)
        if path.name != CERTIFICATE
    }


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
    """Move a finished version into the repository and list it, the contract last."""
    entry, version = weights / str(contract["name"]), str(certificate["version"])
    (staged / CERTIFICATE).write_bytes(_json(certificate))
    entry.mkdir(exist_ok=True)
    if examples:
        _copy(examples, entry / EXAMPLES)
    if not (entry / MODEL_CARD).exists():
        checkpoint.write_atomically(entry / MODEL_CARD, card.encode())
    staged.replace(entry / version)
    versions = {**(read_contract(entry) or contract)["versions"], version: {"provenance": origin}}
    _list_version(entry, {**contract, "versions": versions}, version, certificate)
    return entry / version


def _copy(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for path in paths:
        if path.resolve().parent != folder.resolve():  # a new version may take the old one's
            shutil.copyfile(path, folder / path.name)


def record(version: Version, certificate: Mapping[str, Any]) -> None:
    """Replace a version's certificate and tell the contract."""
    checkpoint.write_atomically(version.folder / CERTIFICATE, _json(certificate))
    _list_version(version.folder.parent, version.contract, version.version, certificate)


def _list_version(
    entry: Path, contract: Mapping[str, Any], version: str, certificate: Mapping[str, Any]
) -> None:
    digest = hashlib.sha256(_json(certificate)).hexdigest()
    listed = {**contract["versions"][version], "certificate_sha256": digest}
    versions = {**contract["versions"], version: listed}
    checkpoint.write_atomically(entry / CONTRACT, _json({**contract, "versions": versions}))


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode()
