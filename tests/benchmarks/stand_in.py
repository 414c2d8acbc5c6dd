"""A light classifier of random weights, about 4 core-ms an image: with it the server shows."""

from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from tests.service.repository_fixture import classification_config, serialize, write_entry

SIDE = 224
CLASSES = [f"class {index}" for index in range(10)]
LAYERS = ((3, 32, 7, 4), (32, 96, 3, 2), (96, 128, 3, 1), (128, 128, 3, 1))
"""Channels in and out, kernel, stride of the convolutions."""


def write_stand_in(repository: Path, name: str = "stand_in") -> Path:
    """Write the entry; returns its folder."""
    chance = np.random.default_rng(0)
    graph = _graph(chance)
    config = classification_config(name)
    config["labels"] = CLASSES
    config["max_batch_size"] = 16
    config["dynamic_batching"]["max_queue_size"] = 256
    config["inputs"][0]["shape"] = [-1, SIDE, SIDE, 3]
    config["outputs"] = [{"name": "logits", "datatype": "FP32", "shape": [-1, len(CLASSES)]}]
    config["preprocessing"]["resize"] = {"mode": "squash", "height": SIDE, "width": SIDE}
    image = np.zeros((SIDE, SIDE, 3), np.uint8)
    golden = {"image_0": image, "logits_0": _run(graph, image)}
    return write_entry(repository, config, graph, golden=golden)


def _graph(chance: np.random.Generator) -> bytes:
    constants: dict[str, np.ndarray] = {}
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    for index, (inside, outside, kernel, stride) in enumerate(LAYERS):
        scale = (inside * kernel * kernel) ** -0.5
        constants[f"w{index}"] = scale * chance.normal(size=(outside, inside, kernel, kernel))
        nodes += [
            helper.make_node(
                "Conv",
                [f"x{index}", f"w{index}"],
                [f"y{index}"],
                strides=[stride] * 2,
                pads=[kernel // 2] * 4,
            ),
            helper.make_node("Relu", [f"y{index}"], [f"x{index + 1}"]),
        ]
    channels = LAYERS[-1][1]
    constants["axes"] = np.array([2, 3], np.int64)
    constants["weights"] = chance.normal(size=(channels, len(CLASSES)))
    nodes += [
        helper.make_node("ReduceMean", [f"x{len(LAYERS)}", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    typed = {
        name: value if name == "axes" else value.astype(np.float32)
        for name, value in constants.items()
    }
    info = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    return serialize(nodes, typed, ["batch", SIDE, SIDE, 3], [info])


def _run(graph: bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["logits"], {"images": image[None]})[0][0]
    return logits
