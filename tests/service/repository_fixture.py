"""Tiny models with true contracts: the colour of a photo, and the colour of each pixel."""

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLORS = ["red", "green", "blue"]
PALETTE = [[255, 0, 0], [0, 255, 0], [0, 0, 255]]
SIDE = 8

Json = dict[str, Any]


def classification_graph(scale: float = 0.05) -> bytes:
    """Logits are the mean of each channel, scaled."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["means"], keepdims=0),
        helper.make_node("Gemm", ["means", "weights", "bias"], ["logits"]),
        helper.make_node("Reshape", ["means", "token_shape"], ["tokens"]),
        helper.make_node("Reshape", ["means", "attention_shape"], ["token_attention"]),
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
    return _serialize(nodes, constants, ["batch", SIDE, SIDE, 3], infos)


def segmentation_graph(channels: int = 3) -> bytes:
    """A pixel's class is its strongest channel."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["pixels"], ["classes"], axis=3, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
    ]
    info = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", "h", "w"])
    return _serialize(nodes, {}, ["batch", "h", "w", channels], [info])


def _serialize(nodes: list, constants: dict, shape: list, outputs: list) -> bytes:
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
    resize = {"mode": "multiple", "short_side": 64, "max_long_side": 128, "multiple_of": 32}
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


def write_entry(
    repository: Path,
    config: Json,
    graph: bytes,
    version: str = "1",
    golden: dict[str, np.ndarray] | None = None,
) -> Path:
    """Write an entry with the hashes that belong to it; return its folder."""
    folder = repository / config["name"]
    (folder / version).mkdir(parents=True, exist_ok=True)
    arrays = io.BytesIO()
    np.savez_compressed(arrays, **(golden_arrays(config) if golden is None else golden))
    files = {"model.onnx": graph, "golden.npz": arrays.getvalue()}
    for name, data in files.items():
        (folder / version / name).write_bytes(data)
    certificate = json.dumps(_certificate(config["name"], version, files)).encode()
    (folder / version / "certificate.json").write_bytes(certificate)
    write_config(folder, config, {version: certificate})
    return folder


def write_config(folder: Path, config: Json, certificates: dict[str, bytes]) -> None:
    canonical = json.dumps(config["preprocessing"], sort_keys=True, separators=(",", ":"))
    versions = {
        version: {"certificate_sha256": sha256(certificate), "provenance": {"opset": 18}}
        for version, certificate in certificates.items()
    }
    whole = {"preprocessing_sha256": sha256(canonical.encode()), **config, "versions": versions}
    (folder / "config.json").write_text(json.dumps(whole))


def _certificate(name: str, version: str, files: dict[str, bytes]) -> Json:
    return {
        "format_version": 1,
        "model": name,
        "version": version,
        "files": {
            file: {"sha256": sha256(data), "bytes": len(data)} for file, data in files.items()
        },
        "golden": "golden.npz",
        "precisions": {
            "fp32": {
                "file": "model.onnx",
                "self_test": {"max_relative_difference": 1e-3, "agreement": 0.999},
                "execution_providers": {},
            }
        },
    }


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def write_classifier(repository: Path, name: str = "colour") -> Path:
    return write_entry(repository, classification_config(name), classification_graph())


def write_segmenter(repository: Path, name: str = "pixels") -> Path:
    return write_entry(repository, segmentation_config(name), segmentation_graph())
