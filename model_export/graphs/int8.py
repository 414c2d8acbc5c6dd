"""Static int8 quantization for CPUs, calibrated on photos."""

import random
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)

from model_export.errors import InvalidEntry
from model_export.execution_providers import CPU
from model_export.graphs.trace import INPUT_NAME
from model_export.preprocessing import Preprocessing, RgbArray
from model_export.quiet import quiet

CALIBRATION_IMAGES = 256
CENTRE = 114
"""The middle of the ImageNet means, in 0-255."""
QUANTIZED_OPERATORS = ("Conv", "MaxPool", "Add")
"""Operators that run on integers, except the layer that computes the scores.

Everything else stays float32. Products of two activations (attention) and softmax would lose
accuracy and save no time, since they are a hundredth of the arithmetic. Scores in 8 bits are often
equal, and the first of two equal scores would win.
"""


def calibration_sample(photos: Sequence[Path], count: int = CALIBRATION_IMAGES) -> list[Path]:
    """A fixed random sample of the photos; all of them if there are at most `count`."""
    if len(photos) <= count:
        return list(photos)
    return random.Random(0).sample(list(photos), count)  # noqa: S311


def int8_graph(graph: Path, preprocessing: Preprocessing, photos: Sequence[Path]) -> bytes:
    """Quantize a float32 graph statically, calibrated by the extremes seen on photos.

    Activations are UINT8 with one scale per tensor. Weights are INT8 with one scale per output
    channel, in 7 bits (`reduce_range`): processors without VNNI add products of UINT8 and INT8 in
    16 bits, which 8-bit weights overflow. BatchNorms are folded into the convolutions first.
    """
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        folded = _folded(graph, Path(folder) / "folded.onnx")
        onnx.save(folded, float32)
        with quiet(None):
            quantize_static(
                float32,
                int8,
                _Calibration(preprocessing.read(photo) for photo in photos),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=list(QUANTIZED_OPERATORS),
                nodes_to_exclude=[_scoring_layer(folded.graph).name],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        return int8.read_bytes()


def _folded(graph: Path, path: Path) -> onnx.ModelProto:
    """The graph with casts, BatchNorms and normalisation folded, in standard operators."""
    _optimize(graph, path)
    proto = onnx.load(path)
    _separate_biases(proto.graph)
    fold_normalisation(proto.graph)
    _remove_unused(proto.graph)
    return proto


def _optimize(graph: Path, path: Path) -> None:
    """Write the graph as ONNX Runtime simplifies it at load, in standard operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    try:
        whole = onnx.load(graph).SerializeToString()
        onnxruntime.InferenceSession(whole, options, providers=[CPU])
    except Exception as error:
        raise InvalidEntry(f"ONNX Runtime cannot load the graph: {error}") from error


def _separate_biases(graph: onnx.GraphProto) -> None:
    """Give every convolution its own bias; the quantizer names copies of a shared one twice."""
    biases = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            own = onnx.TensorProto()
            own.CopyFrom(biases[node.input[2]])
            own.name = node.input[2] = f"{node.name}.bias"
            graph.initializer.append(own)


def fold_normalisation(graph: onnx.GraphProto) -> None:
    """Move the input's `x * scale + shift` by channel into the first convolution.

    `x - CENTRE` remains: for bytes its quantization is exact (scale 1) and free, whereas a product
    and a sum by channel took a fifth of a small network's time. The rest follows from
    `x * scale + shift = (x - CENTRE) * scale + (CENTRE * scale + shift)`: the factor goes into the
    weights, the last term into the bias. The result is exact except at the padded border, where a
    0 now stands for CENTRE instead of the mean. A graph with another beginning is left unchanged.
    """
    chain = _path_from_input(graph, length=5)
    if _normalises(chain):
        _fold(graph, *chain[2:])


def _normalises(chain: Sequence[onnx.NodeProto]) -> bool:
    kinds = [node.op_type for node in chain]
    return sorted(kinds[:2]) == ["Cast", "Transpose"] and kinds[2:] == ["Mul", "Add", "Conv"]


def _fold(
    graph: onnx.GraphProto,
    multiply: onnx.NodeProto,
    add: onnx.NodeProto,
    convolution: onnx.NodeProto,
) -> None:
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    scale, shift, weight, bias = (
        numpy_helper.to_array(tensors[name]).astype(np.float64)
        for name in (multiply.input[1], add.input[1], *convolution.input[1:])
    )
    scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
    bias = bias + (weight * (CENTRE * scale + shift)).sum(axis=(1, 2, 3))
    _set(tensors[convolution.input[1]], weight * scale)
    _set(tensors[convolution.input[2]], bias)
    _set(tensors[add.input[1]], np.array(CENTRE))
    del graph.value_info[:]  # some shapes changed; the quantizer infers them again
    add.op_type, add.input[0] = "Sub", multiply.input[0]
    graph.node.remove(multiply)


def _scoring_layer(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The convolution or linear layer that computes the logits."""
    producers = {name: node for node in graph.node for name in node.output}
    node: onnx.NodeProto = producers[graph.output[0].name]
    while node.op_type not in ("Conv", "Gemm"):
        node = producers[node.input[0]]
    return node


def _remove_unused(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _path_from_input(graph: onnx.GraphProto, length: int) -> list[onnx.NodeProto]:
    """The nodes after the input, up to the first value with several consumers (Shape aside)."""
    value, path = INPUT_NAME, list[onnx.NodeProto]()
    while len(path) < length:
        consumers = [n for n in graph.node if value in n.input and n.op_type != "Shape"]
        if len(consumers) != 1:
            break
        path.append(consumers[0])
        value = consumers[0].output[0]
    return path


def _set(tensor: onnx.TensorProto, values: np.ndarray[Any, Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Supplies images one by one, through the interface of the quantizer."""

    def __init__(self, images: Iterable[RgbArray]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, RgbArray] | None:
        """The next batch of one, or None at the end."""
        image = next(self._images, None)
        return None if image is None else {INPUT_NAME: image[None]}
