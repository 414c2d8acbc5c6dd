"""Float32 weights that float16 holds exactly, stored as float16: half the file, equal numbers."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 256
_SUFFIX = ".float16"


def store_halves(proto: onnx.ModelProto) -> None:
    """Store float32 weights as float16 behind a Cast where float16 holds every one exactly."""
    graph = proto.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        if values.size < _SMALLEST:
            continue
        with np.errstate(over="ignore"):
            halves = values.astype(np.float16)
        if not np.array_equal(halves.astype(np.float32), values):
            continue
        name, stored = tensor.name, tensor.name + _SUFFIX
        tensor.CopyFrom(numpy_helper.from_array(halves, stored))
        cast = helper.make_node("Cast", [stored], [name], f"{name}.cast", to=TensorProto.FLOAT)
        casts.append(cast)
    _set_nodes(graph, [*casts, *graph.node])


def restore_halves(proto: onnx.ModelProto) -> None:
    """The inverse of `store_halves`."""
    graph = proto.graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        tensor = tensors.get(node.input[0]) if node.op_type == "Cast" else None
        if tensor is None or tensor.name != node.output[0] + _SUFFIX:
            kept.append(node)
            continue
        values = numpy_helper.to_array(tensor).astype(np.float32)
        tensor.CopyFrom(numpy_helper.from_array(values, node.output[0]))
    _set_nodes(graph, kept)


def _set_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)
