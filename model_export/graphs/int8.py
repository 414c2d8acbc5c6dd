"""Static int8 for CPUs: a float32 graph on 8-bit integers, calibrated on photos."""

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

from model_export.comparison.predictors import CPU
from model_export.errors import InvalidEntry
from model_export.graphs.trace import INPUT_NAME
from model_export.preprocessing import Preprocessing, RgbArray, open_image
from model_export.quiet import quiet

CALIBRATION_IMAGES = 256
CENTRE = 114
"""The middle of ImageNet's means, in 0-255."""
QUANTIZED_OPERATORS = ("Conv", "MaxPool", "Add")
"""What runs on integers, but for the convolution that makes a segmenter's scores. The rest stays
float32: the products of two activations (attention) and softmax lose accuracy and gain no time,
being a hundredth of the arithmetic; scores in 8 bits are often equal, and the first would win."""


def calibration_sample(photos: Sequence[Path], count: int = CALIBRATION_IMAGES) -> list[Path]:
    """The same photos each time, spread over all of them."""
    if len(photos) <= count:
        return list(photos)
    return random.Random(0).sample(list(photos), count)  # noqa: S311


def int8_graph(graph: Path, preprocessing: Preprocessing, photos: Sequence[Path]) -> bytes:
    """Static quantization of a float32 graph, calibrated by the extremes seen on photos.

    Activations are UINT8 by tensor, weights INT8 by output channel in 7 bits (`reduce_range`):
    processors without VNNI add products of UINT8 and INT8 in 16 bits, which 8-bit weights
    overflow. BatchNorms are folded into the convolutions first.
    """
    with tempfile.TemporaryDirectory() as folder:
        float32, int8 = Path(folder) / "float32.onnx", Path(folder) / "int8.onnx"
        folded = _folded(graph, Path(folder) / "folded.onnx")
        onnx.save(folded, float32)
        with quiet(None):
            quantize_static(
                float32,
                int8,
                _Calibration(preprocessing(open_image(photo)) for photo in photos),
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
    """The graph with casts and BatchNorms folded by ONNX Runtime, in standard operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    try:
        whole = onnx.load(graph).SerializeToString()
        onnxruntime.InferenceSession(whole, options, providers=[CPU])
    except Exception as error:
        raise InvalidEntry(f"ONNX Runtime does not load the graph: {error}") from error
    proto = onnx.load(path)
    _separate_biases(proto.graph)
    fold_normalisation(proto.graph)
    _remove_unused(proto.graph)
    return proto


def _separate_biases(graph: onnx.GraphProto) -> None:
    """A bias of its own for every convolution: the quantizer gives copies of shared ones names
    that may be taken."""
    biases = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            own = onnx.TensorProto()
            own.CopyFrom(biases[node.input[2]])
            own.name = node.input[2] = f"{node.name}.bias"
            graph.initializer.append(own)


def fold_normalisation(graph: onnx.GraphProto) -> None:
    """Move the input's `x * scale + shift` by channel into the first convolution.

    What is left is `x - CENTRE`: over bytes its quantization is exact (scale 1) and costs nothing,
    where a product and a sum by channel took a fifth of a small network's time. With
    `x * scale + shift = (x - CENTRE) * scale + (CENTRE * scale + shift)` the last term goes into
    the bias; only where the convolution's padding reaches is that not exact, since a padded 0
    then means CENTRE and not the mean. A graph that begins otherwise stays as it is.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    chain = _path_from_input(graph, length=5)
    if sorted(node.op_type for node in chain[:2]) != ["Cast", "Transpose"]:
        return
    if [node.op_type for node in chain[2:]] != ["Mul", "Add", "Conv"]:
        return
    multiply, add, convolution = chain[2:]
    scale, shift, weight, bias = (
        numpy_helper.to_array(tensors[name]).astype(np.float64)
        for name in (multiply.input[1], add.input[1], *convolution.input[1:])
    )
    scale, shift = scale.reshape(1, -1, 1, 1), shift.reshape(1, -1, 1, 1)
    bias = bias + (weight * (CENTRE * scale + shift)).sum(axis=(1, 2, 3))
    _set(tensors[convolution.input[1]], weight * scale)
    _set(tensors[convolution.input[2]], bias)
    _set(tensors[add.input[1]], np.array(CENTRE))
    del graph.value_info[:]  # the shapes of what was changed; the quantizer infers them anew
    add.op_type, add.input[0] = "Sub", multiply.input[0]
    graph.node.remove(multiply)


def _scoring_layer(graph: onnx.GraphProto) -> onnx.NodeProto:
    """The convolution or linear layer that makes the logits, or the classes' maps."""
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
    """The nodes that the input passes through, as far as each has one consumer but for shapes."""
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
    """Images one by one, as the quantizer asks for them."""

    def __init__(self, images: Iterable[RgbArray]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, RgbArray] | None:
        """The next batch, or None at the end."""
        image = next(self._images, None)
        return None if image is None else {INPUT_NAME: image[None]}
