"""Tiny models with several tokens, whose attention and contributions are known."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.service.repository_fixture import (
    Json,
    classification_config,
    golden_arrays,
    segmentation_config,
    serialize,
    write_entry,
)

SIDE = 8
WEIGHT = np.array([[0.05, 0, 0], [0, 0.05, 0], [0, 0, 0.05]], np.float32)
BIAS = np.array([0, 0.5, 0], np.float32)


def _attention(name: str, pixels: str, scale: str, shape: str) -> list[onnx.NodeProto]:
    """Tokens 0 and 1 look at what is red and green: softmax over the pixels [B, 3, h, w]."""
    return [
        helper.make_node("Slice", [pixels, "zero", "two", "one"], [f"{name}.two"]),
        helper.make_node("Mul", [f"{name}.two", scale], [f"{name}.scores"]),
        helper.make_node("Shape", [f"{name}.scores"], [f"{name}.shape"]),
        helper.make_node("Reshape", [f"{name}.scores", "flat"], [f"{name}.flat"]),
        helper.make_node("Softmax", [f"{name}.flat"], [f"{name}.softmax"], axis=2),
        helper.make_node("Reshape", [f"{name}.softmax", shape or f"{name}.shape"], [name]),
    ]


CONSTANTS = {
    "zero": np.array([0], np.int64),
    "one": np.array([1], np.int64),
    "two": np.array([2], np.int64),
    "flat": np.array([0, 0, -1], np.int64),
    "weak": np.array(0.02, np.float32),
    "strong": np.array(1.0, np.float32),
}


def token_classifier_graph() -> bytes:
    """Token 0 is the mean of the left half, token 1 of the right half; modules look ever closer."""
    halves = np.array([4, 4], np.int64)
    module_shape = np.array([-1, 1, 2, SIDE, SIDE], np.int64)
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["map"], perm=[0, 3, 1, 2]),
        *_attention("weak_map", "map", "weak", "module_shape"),
        *_attention("strong_map", "map", "strong", "module_shape"),
        helper.make_node("Concat", ["weak_map", "strong_map"], ["token_attention"], axis=1),
        helper.make_node("Split", ["pixels", "halves"], ["left", "right"], axis=2),
        helper.make_node("ReduceMean", ["left", "axes"], ["left_mean"], keepdims=0),
        helper.make_node("ReduceMean", ["right", "axes"], ["right_mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["left_mean", "one"], ["token_0"]),
        helper.make_node("Unsqueeze", ["right_mean", "one"], ["token_1"]),
        helper.make_node("Concat", ["token_0", "token_1"], ["tokens"], axis=1),
        helper.make_node("ReduceMean", ["tokens", "one"], ["mean"], keepdims=0),
        helper.make_node("Gemm", ["mean", "weight", "bias"], ["logits"], transB=1),
    ]
    constants = CONSTANTS | {
        "halves": halves,
        "module_shape": module_shape,
        "axes": np.array([1, 2], np.int64),
        "weight": WEIGHT,
        "bias": BIAS,
    }
    outputs = {
        "logits": ["batch", 3],
        "tokens": ["batch", 2, 3],
        "token_attention": ["batch", 2, 2, SIDE, SIDE],
    }
    return serialize(nodes, constants, ["batch", SIDE, SIDE, 3], _infos(outputs))


def token_segmenter_graph() -> bytes:
    """A pixel's class is its strongest channel; two levels of two tokens look at red and green."""
    nodes = [
        helper.make_node("Cast", ["images"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", ["pixels"], ["classes"], axis=3, keepdims=0),
        helper.make_node("Cast", ["classes"], ["labels"], to=TensorProto.UINT8),
        helper.make_node("Transpose", ["pixels"], ["map"], perm=[0, 3, 1, 2]),
        *(
            node
            for stride in (4, 8)
            for node in [
                helper.make_node(
                    "AveragePool",
                    ["map"],
                    [f"map_{stride}"],
                    kernel_shape=[stride, stride],
                    strides=[stride, stride],
                ),
                *_attention(f"token_attention_stride_{stride}", f"map_{stride}", "weak", ""),
            ]
        ),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Unsqueeze", ["mean", "one"], ["token"]),
        helper.make_node("Concat", ["token"] * 4, ["tokens"], axis=1),
    ]
    outputs = {
        "tokens": ["batch", 4, 3],
        "token_attention_stride_4": ["batch", 2, "h_4", "w_4"],
        "token_attention_stride_8": ["batch", 2, "h_8", "w_8"],
    }
    labels = helper.make_tensor_value_info("labels", TensorProto.UINT8, ["batch", "h", "w"])
    constants = CONSTANTS | {"axes": np.array([1, 2], np.int64)}
    return serialize(nodes, constants, ["batch", "h", "w", 3], [labels, *_infos(outputs)])


def _infos(outputs: dict[str, list]) -> list[onnx.ValueInfoProto]:
    info = helper.make_tensor_value_info
    return [info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]


def token_classifier_config(name: str = "halves") -> Json:
    """Photos are resized to a short side of 8 and cropped, so that parts of them are not seen."""
    config = classification_config(name)
    config["outputs"][1:] = [
        {"name": "tokens", "datatype": "FP32", "shape": [-1, 2, 3]},
        {"name": "token_attention", "datatype": "FP32", "shape": [-1, 2, 2, SIDE, SIDE]},
    ]
    crop = {"mode": "crop", "short_side": SIDE, "height": SIDE, "width": SIDE}
    return config | {"preprocessing": config["preprocessing"] | {"resize": crop}}


def token_segmenter_config(name: str = "levels") -> Json:
    config = segmentation_config(name)
    config["outputs"] += [
        {"name": "tokens", "datatype": "FP32", "shape": [-1, 4, 3]},
        {"name": "token_attention_stride_4", "datatype": "FP32", "shape": [-1, 2, -1, -1]},
        {"name": "token_attention_stride_8", "datatype": "FP32", "shape": [-1, 2, -1, -1]},
    ]
    return config


def write_token_classifier(repository: Path, name: str = "halves", **changes: object) -> Path:
    config = token_classifier_config(name)
    golden = golden_arrays(config)
    golden |= {key: value + BIAS for key, value in golden.items() if key.startswith("logits")}
    options: dict = {"head": {"weight": WEIGHT, "bias": BIAS}} | changes
    return write_entry(repository, config, token_classifier_graph(), golden=golden, **options)


def write_token_segmenter(repository: Path, name: str = "levels") -> Path:
    return write_entry(repository, token_segmenter_config(name), token_segmenter_graph())


def write_token_models(repository: Path) -> Path:
    """Write a classifier and a segmenter with tokens; return the repository."""
    write_token_classifier(repository)
    write_token_segmenter(repository)
    return repository
