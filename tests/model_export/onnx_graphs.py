"""Small ONNX graphs, and queries on large ones."""

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = helper.make_opsetid("", 20)


def product(weights: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """`products` FP32 `[1, N]` = `images` FP32 `[1, M]` times weights `[M, N]`."""
    rows, columns = weights.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["images", "weights"], ["products"], "product")],
        "product",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, rows])],
        [helper.make_tensor_value_info("products", TensorProto.FLOAT, [1, columns])],
        [numpy_helper.from_array(weights, "weights")],
    )
    return helper.make_model(graph, opset_imports=[OPSET], ir_version=10)


def weights_of(proto: onnx.ModelProto) -> dict[str, npt.NDArray[np.generic]]:
    """The initializers by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def operators(proto: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    """The nodes of one operator."""
    return [node for node in proto.graph.node if node.op_type == kind]


def producers(proto: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each value."""
    return {name: node for node in proto.graph.node for name in node.output}


def consumers(proto: onnx.ModelProto, name: str) -> set[str]:
    """The operators that take a value."""
    return {node.op_type for node in proto.graph.node if name in node.input}


def signature(proto: onnx.ModelProto) -> list[tuple[str, int, list[int | str]]]:
    """Name, type and shape of each input and output."""
    return [
        (
            value.name,
            value.type.tensor_type.elem_type,
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim],
        )
        for value in (*proto.graph.input, *proto.graph.output)
    ]
