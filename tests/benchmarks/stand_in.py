"""Classifiers with random weights that make the server's own cost visible.

`LIGHT` takes about 4 core-ms per image, `FREE` next to nothing."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from tests.service.repository_fixture import classification_config, serialize, write_entry

CLASSES = [f"class {index}" for index in range(10)]


@dataclass(frozen=True)
class StandIn:
    """A classifier of square images: input and output channels, kernel and stride of each layer."""

    name: str
    side: int
    layers: tuple[tuple[int, int, int, int], ...]


LIGHT = StandIn("stand_in", 224, ((3, 32, 7, 4), (32, 96, 3, 2), (96, 128, 3, 1), (128, 128, 3, 1)))
FREE = StandIn("free", 64, ((3, 4, 3, 4),))


def write_stand_in(repository: Path, model: StandIn = LIGHT, max_batch_size: int = 16) -> Path:
    """Write the entry; return its folder."""
    chance = np.random.default_rng(0)
    side = model.side
    graph = _graph(chance, model)
    config = classification_config(model.name)
    config["labels"] = CLASSES
    config["max_batch_size"] = max_batch_size
    config["dynamic_batching"]["max_queue_size"] = 256
    config["inputs"][0]["shape"] = [-1, side, side, 3]
    config["outputs"] = [{"name": "logits", "datatype": "FP32", "shape": [-1, len(CLASSES)]}]
    config["preprocessing"]["resize"] = {"mode": "squash", "height": side, "width": side}
    image = np.zeros((side, side, 3), np.uint8)
    golden = {"image_0": image, "logits_0": _run(graph, image)}
    return write_entry(repository, config, graph, golden=golden)


def _graph(chance: np.random.Generator, model: StandIn) -> bytes:
    layers = model.layers
    constants: dict[str, np.ndarray] = {}
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["x0"], perm=[0, 3, 1, 2]),
    ]
    for index, (inside, outside, kernel, stride) in enumerate(layers):
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
    channels = layers[-1][1]
    constants["axes"] = np.array([2, 3], np.int64)
    constants["weights"] = chance.normal(size=(channels, len(CLASSES)))
    nodes += [
        helper.make_node("ReduceMean", [f"x{len(layers)}", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["logits"]),
    ]
    typed = {
        name: value if name == "axes" else value.astype(np.float32)
        for name, value in constants.items()
    }
    info = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(CLASSES)])
    return serialize(nodes, typed, ["batch", model.side, model.side, 3], [info])


def _run(graph: bytes, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["logits"], {"images": image[None]})[0][0]
    return logits
