"""Store float32 weights as float16 if that is exact: half the file, the same numbers."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

_SMALLEST = 256
_SUFFIX = ".float16"


def store_halves(proto: onnx.ModelProto) -> None:
    """Store each float32 tensor that float16 represents exactly as float16 behind a Cast."""
    casts = []
    for tensor in proto.graph.initializer:
        halves = _halves(tensor)
        if halves is not None:
            name, stored = tensor.name, tensor.name + _SUFFIX
            tensor.CopyFrom(numpy_helper.from_array(halves, stored))
            cast = helper.make_node("Cast", [stored], [name], f"{name}.cast", to=TensorProto.FLOAT)
            casts.append(cast)
    _set_nodes(proto.graph, [*casts, *proto.graph.node])


def _halves(tensor: onnx.TensorProto) -> npt.NDArray[np.float16] | None:
    """The float16 values of a tensor, or None if it is small or they are not exact."""
    if tensor.data_type != TensorProto.FLOAT:
        return None
    values = numpy_helper.to_array(tensor)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    exact = np.array_equal(halves.astype(np.float32), values)
    return halves if exact and values.size >= _SMALLEST else None


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
