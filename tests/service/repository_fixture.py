"""Tiny models with true contracts: the colour of a photo, and the colour of each pixel."""

import hashlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLORS = ["red", "green", "blue"]
PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
SIDE = 8
INT8_SCALE = 0.0505
SELF_TEST = {"max_relative_difference": 1e-3, "agreement": 0.999}

Json = dict[str, Any]


def classification_graph(scale: float = 0.05) -> bytes:
    """Logits are the mean of each channel, scaled."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        helper.make_node("Reshape", ["means", "token_shape"], ["tokens"]),
        helper.make_node("Softmax", ["logits"], ["attention"]),
        helper.make_node("Reshape", ["attention", "attention_shape"], ["token_attention"]),
    ]
    constants = {
        "axes": np.array([1, 2], np.int64),
        "weights": np.eye(3, dtype=np.float32) * np.float32(scale),
        "bias": np.zeros(3, np.float32),
        "token_shape": np.array([-1, 1, 3], np.int64),
        "attention_shape": np.array([-1, 1, 1, 1, 3], np.int64),
    }
    outputs = {
        "logits": ["batch", 3],
        "tokens": ["batch", 1, 3],
        "token_attention": ["batch", 1, 1, 1, 3],
    }
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in outputs.items()
    ]
    return serialize(nodes, constants, ["batch", SIDE, SIDE, 3], infos)


def looping_graph(times: int) -> bytes:
    """A classifier whose logits come after so many turns of a loop, a million a second."""
    info, tensor = helper.make_tensor_value_info, TensorProto
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["still_go_on"]),
            helper.make_node("Relu", ["before"], ["after"]),
        ],
        "body",
        [
            info("turn", tensor.INT64, []),
            info("go_on", tensor.BOOL, []),
            info("before", tensor.FLOAT, None),
        ],
        [info("still_go_on", tensor.BOOL, []), info("after", tensor.FLOAT, None)],
    )
    model = onnx.load_from_string(classification_graph())
    means = next(each for each in model.graph.node if each.op_type == "ReduceMean")
    means.output[0] = "first"
    loop = helper.make_node("Loop", ["times", "", "first"], ["means"], body=body)
    model.graph.node.insert(2, loop)
    model.graph.initializer.append(numpy_helper.from_array(np.array(times, np.int64), "times"))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def segmentation_graph(channels: int = 3) -> bytes:
    """A pixel's class is its strongest channel."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["pixels"], ["classes"], axis=3, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    info = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", "h", "w"])
    return serialize(nodes, {}, ["batch", "h", "w", channels], [info])


def scoring_graph() -> bytes:
    """A segmenter with scores: the means of 4x4 pixels of each channel, and their labels."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["channels", "scale"], ["scaled"]),
        helper.make_node(
            "AveragePool", ["scaled"], ["scores"], kernel_shape=[4, 4], strides=[4, 4]
        ),
        helper.make_node("Resize", ["scores", "", "enlarge"], ["large"], mode="linear"),
        helper.make_node("ArgMax", ["large"], ["classes"], axis=1, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    constants = {
        "scale": np.array(0.05, np.float32),
        "enlarge": np.array([1, 1, 4, 4], np.float32),
    }
    infos = [
        helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", "h", "w"]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 3, "h_4", "w_4"]),
    ]
    return serialize(nodes, constants, ["batch", "h", "w", 3], infos)


def serialize(nodes: list, constants: dict, shape: list, outputs: list) -> bytes:
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, shape)
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "tiny", [images], outputs, initializers)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, producer_name="tests"
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


def classification_config(name: str) -> Json:
    return {
        **_common(name),
        "task": "classification",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, SIDE, SIDE, 3]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "tokens", "datatype": "FP32", "shape": [-1, 1, 3]},
            {"name": "token_attention", "datatype": "FP32", "shape": [-1, 1, 1, 1, 3]},
        ],
        "palette": None,
        "preprocessing": _preprocessing({"mode": "squash", "height": SIDE, "width": SIDE}),
    }


def segmentation_config(name: str) -> Json:
    resize = {"mode": "buckets", "sizes": [[64, 64], [64, 96], [64, 128], [96, 64], [128, 64]]}
    return {
        **_common(name),
        "task": "segmentation",
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}],
        "outputs": [{"name": "labels", "datatype": "UINT8", "shape": [-1, -1, -1]}],
        "palette": PALETTE,
        "preprocessing": _preprocessing(resize),
    }


def _common(name: str) -> Json:
    return {
        "format_version": 1,
        "name": name,
        "platform": "onnxruntime_onnx",
        "max_batch_size": 4,
        "labels": COLORS,
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "max_queue_size": 64,
            "default_timeout_microseconds": 0,
        },
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        "dimensions": {"family": "tiny"},
    }


def _preprocessing(resize: Json) -> Json:
    return {
        "color_space": "RGB",
        "exif_orientation": True,
        "fill": [255, 255, 255],
        "filter": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "resize": resize,
    }


def golden_arrays(config: Json, scale: float = 0.05) -> dict[str, np.ndarray]:
    """Two inputs, and what the tiny models must make of them."""
    segments = config["task"] == "segmentation"
    side = 32 if segments else SIDE
    arrays = {}
    for index, color in enumerate((0, 2)):
        image = np.zeros((side, side, 3), np.uint8)
        image[..., color] = 200
        arrays[f"image_{index}"] = image
        if segments:
            arrays[f"labels_{index}"] = np.full((side, side), color, np.uint8)
        else:
            arrays[f"logits_{index}"] = np.eye(3, dtype=np.float32)[color] * np.float32(200 * scale)
    return arrays


@dataclass(frozen=True)
class Precision:
    """A graph beside the fp32 one, with the keys of its certificate."""

    graph: bytes
    golden_outputs: dict[str, np.ndarray] | None = None
    external_data: dict[str, bytes] = field(default_factory=dict)
    limits: Json = field(default_factory=dict)
    accuracy: Json = field(default_factory=dict)  # by execution provider


def externalize(graph: bytes, file: str, name: str = "weights") -> tuple[bytes, bytes]:
    """Move one initializer of a graph into a file; return both."""
    model = onnx.load_from_string(graph)
    tensor = next(each for each in model.graph.initializer if each.name == name)
    data = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, file, offset=8, length=len(data))
    tensor.ClearField("raw_data")
    return model.SerializeToString(), bytes(8) + data


def write_entry(
    repository: Path,
    config: Json,
    graph: bytes,
    version: str = "1",
    golden: dict[str, np.ndarray] | None = None,
    *,
    fp32_accuracy: Json | None = None,
    head: dict[str, np.ndarray] | None = None,
    **others: Precision,
) -> Path:
    """Write an entry with the hashes that belong to it; return its folder."""
    folder = repository / config["name"]
    (folder / version).mkdir(parents=True, exist_ok=True)
    golden = golden_arrays(config) if golden is None else golden
    files = {"model.onnx": graph, "golden.npz": _npz(golden)}
    if head is not None:
        files["head.npz"] = _npz(head)
    precisions = {
        "fp32": {
            "file": "model.onnx",
            "self_test": SELF_TEST,
            "execution_providers": _measured(fp32_accuracy or {}),
        }
    }
    for name, other in others.items():
        precisions[name] = _add_precision(files, name, other)
    for name, data in files.items():
        (folder / version / name).write_bytes(data)
    certificate = json.dumps(_certificate(config["name"], version, files, precisions)).encode()
    (folder / version / "certificate.json").write_bytes(certificate)
    write_config(folder, config, {version: certificate})
    return folder


def _add_precision(files: dict[str, bytes], name: str, precision: Precision) -> Json:
    """Put a precision's files to the others; return what the certificate says of it."""
    record = {
        "file": f"model.{name}.onnx",
        "external_data": list(precision.external_data),
        "limits": precision.limits,
        "self_test": SELF_TEST,
        "execution_providers": _measured(precision.accuracy),
    }
    files |= {record["file"]: precision.graph, **precision.external_data}
    if precision.golden_outputs is not None:
        record["golden_outputs"] = f"golden.{name}.npz"
        files[record["golden_outputs"]] = _npz(precision.golden_outputs)
    return record


def _measured(accuracy: Json) -> Json:
    return {provider: {"accuracy": record} for provider, record in accuracy.items()}


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


PROVENANCE = {"opset": 18, "tools": {"torch": "2.13.0+cpu"}}


def write_config(folder: Path, config: Json, certificates: dict[str, bytes]) -> None:
    canonical = json.dumps(config["preprocessing"], sort_keys=True, separators=(",", ":"))
    versions = {
        version: {"certificate_sha256": sha256(certificate), "provenance": PROVENANCE}
        for version, certificate in certificates.items()
    }
    whole = {"preprocessing_sha256": sha256(canonical.encode()), **config, "versions": versions}
    (folder / "config.json").write_text(json.dumps(whole))


def _certificate(name: str, version: str, files: dict[str, bytes], precisions: Json) -> Json:
    return {
        "format_version": 1,
        "model": name,
        "version": version,
        "files": {
            file: {"sha256": sha256(data), "bytes": len(data)} for file, data in files.items()
        },
        "golden": "golden.npz",
        **({"head": "head.npz"} if "head.npz" in files else {}),
        "precisions": precisions,
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_classifier(repository: Path, name: str = "colour") -> Path:
    return write_entry(repository, classification_config(name), classification_graph())


def with_temperature(config: Json, temperature: object) -> Json:
    """The contract, with a temperature of version 1."""
    listed = config["versions"]["1"] | {"temperature": temperature}
    return {**config, "versions": {**config["versions"], "1": listed}}


def accuracy(**figures: float) -> Json:
    """What was measured on one data set."""
    return {"data": "colours/val", "sha256": "c" * 64, "images": 100, **figures}


def int8_precision(**changes: Any) -> Precision:
    """An int8 graph of the tiny classifier, off by 1 %, that loses 0.1 points of its accuracy."""
    outputs = golden_arrays(classification_config("colour"), INT8_SCALE)
    values = {
        "graph": classification_graph(INT8_SCALE),
        "golden_outputs": {key: value for key, value in outputs.items() if "logits" in key},
        "limits": {"accuracy_loss": 0.005},
        "accuracy": {"CPUExecutionProvider": accuracy(top1=0.899, top5=0.99)},
    }
    return Precision(**{**values, **changes})


def list_versions(folder: Path, config: Json, *versions: str) -> None:
    """Let the contract list these versions, whose folders are there."""
    paths = {version: folder / version / "certificate.json" for version in versions}
    write_config(folder, config, {version: path.read_bytes() for version, path in paths.items()})


def write_versions(repository: Path, *versions: str, name: str = "colour", **config: Any) -> Path:
    """Write versions of the tiny classifier, each with a scale of its own; list them all."""
    whole = {**classification_config(name), **config}
    for version in versions:
        scale = 0.05 + int(version) / 1000
        golden = golden_arrays(whole, scale)
        folder = write_entry(repository, whole, classification_graph(scale), version, golden)
    list_versions(folder, whole, *versions)
    return folder


def write_quantized_classifier(repository: Path, **changes: Any) -> Path:
    """Write the tiny classifier with an int8 graph that `auto` chooses on the CPU."""
    return write_entry(
        repository,
        classification_config("colour"),
        classification_graph(),
        fp32_accuracy={"CPUExecutionProvider": accuracy(top1=0.9, top5=0.99)},
        int8=int8_precision(**changes),
    )


def write_segmenter(repository: Path, name: str = "pixels") -> Path:
    return write_entry(repository, segmentation_config(name), segmentation_graph())


def write_scoring_segmenter(repository: Path, name: str = "scored") -> Path:
    config = segmentation_config(name)
    config["outputs"].append({"name": "scores", "datatype": "FP32", "shape": [-1, 3, -1, -1]})
    return write_entry(repository, config, scoring_graph())


def write_both(repository: Path) -> Path:
    """Write the tiny classifier and the tiny segmenter; return the repository."""
    write_classifier(repository)
    write_segmenter(repository)
    return repository


def certify(folder: Path, **changes: object) -> None:
    """Change the certificate and let the contract agree to it."""
    path = folder / "1" / "certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_config(folder, classification_config("colour"), {"1": path.read_bytes()})
