"""The contents of `config.json` and `certificate.json`, as plain JSON data."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from model_export.entry.labels import Labels
from model_export.entry.precisions import GOLDEN, HEAD, PRECISIONS, PrecisionName
from model_export.entry.version import CERTIFICATE, FORMAT_VERSION
from model_export.errors import InvalidEntry
from model_export.files import files_in, sha256
from model_export.models.registry import Dimensions, Task
from model_export.preprocessing import Preprocessing

MAX_QUEUE_SIZE: Mapping[Task, int] = {"classification": 256, "segmentation": 64}
SERVING_DEFAULTS = ("dynamic_batching", "instance_group", "version_policy")
"""Settings that an operator may change in a contract; exporting a new version keeps them."""
MODEL_KEYS = (
    "task",
    "inputs",
    "outputs",
    "labels",
    "palette",
    "preprocessing",
    "dimensions",
    "max_batch_size",
)
"""Properties that all versions of a model share."""
_DATATYPES = {int(onnx.TensorProto.UINT8): "UINT8", int(onnx.TensorProto.FLOAT): "FP32"}
_TOOLS = ("vt-serve", "torch", "onnx", "onnxscript", "onnxruntime")


def make_contract(
    name: str,
    dimensions: Dimensions,
    labels: Labels,
    preprocessing: Preprocessing,
    *,
    max_batch_size: int,
    graph: Path,
) -> dict[str, Any]:
    """The contract of a model without versions; the tensors are those of the graph."""
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
            "max_queue_size": MAX_QUEUE_SIZE[dimensions.task],
            "default_timeout_microseconds": 30_000_000,
        },
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        "dimensions": dimensions.as_dict(),
        "versions": {},
    }


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """An input or output of a graph in the terms of the Open Inference Protocol."""
    tensor = value.type.tensor_type
    shape = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
    return {"name": value.name, "datatype": _DATATYPES[tensor.elem_type], "shape": shape}


def continued(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> dict[str, Any]:
    """The contract of a further version: `new`, with the operator's settings of `old`.

    Raises:
        InvalidEntry: the two contracts describe different models.
    """
    if old is None:
        return dict(new)
    _require_same_model(old, new)
    return {**new, **{key: old[key] for key in SERVING_DEFAULTS if key in old}}


def _require_same_model(old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    different = [key for key in MODEL_KEYS if old.get(key) != new.get(key)]
    if different:
        raise InvalidEntry(
            f"{new['name']} already exists with different {', '.join(different)}; "
            "export under another --name, or remove the old entry"
        )


def provenance(source: Path, opset: int) -> dict[str, Any]:
    """The origin of a version: checkpoint hash, opset, and the versions of the tools."""
    return {
        "checkpoint_sha256": sha256(source),
        "opset": opset,
        "tools": {tool: importlib.metadata.version(tool) for tool in _TOOLS},
    }


def make_certificate(
    name: str, version: str, folder: Path, precisions: Mapping[str, Any]
) -> dict[str, Any]:
    """The certificate of the graphs and the checkpoint in a folder."""
    head = {"head": HEAD} if (folder / HEAD).exists() else {}
    return {
        "format_version": FORMAT_VERSION,
        "model": name,
        "version": version,
        "golden": GOLDEN,
        **head,
        "files": certified_files(folder),
        "precisions": dict(precisions),
    }


def certified_files(folder: Path) -> dict[str, Any]:
    """SHA-256 and size of every file of a version except the certificate itself."""
    return {
        path.name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for path in files_in(folder)
        if path.name != CERTIFICATE
    }


def precision_section(
    name: PrecisionName, task: Task, providers: Mapping[str, Any], **more: Any
) -> dict[str, Any]:
    """The section of a certificate on one precision, with the figures of each provider."""
    precision = PRECISIONS[name]
    return {
        "file": precision.graph,
        "golden_outputs": precision.golden_outputs,
        "self_test": asdict(precision.self_test),
        "limits": dict(precision.limits.get(task, {})),
        **more,
        "execution_providers": dict(providers),
    }
