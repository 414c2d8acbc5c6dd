"""Which nodes of a graph on a GPU run on the CPU, and which of them are there on purpose."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

SHAPE_OPERATORS = frozenset(
    {
        *("Shape", "Size"),
        *("Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split"),
        *("Squeeze", "Unsqueeze", "ConstantOfShape", "Range", "Where"),
        *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Sqrt", "Min", "Max"),
        *("ReduceProd", "Equal", "Greater", "Less", "And", "Or", "Not"),
    }
)
"""What exporters compute with shapes.

CUDA has kernels of these for every type that a picture's tensors have, so that a lack of one is
no reason to find them on the CPU. ONNX Runtime puts them there where all that they read are shapes,
what was computed from shapes, and constants of at most 100 numbers (its `GetCpuPreferredNodes`): a
few integers, of which the GPU would only have to be told. Whatever else runs on the CPU is
itself of another operator. What ONNX Runtime tells of a node is no more than operator and name.
"""

_STANDARD = ("", "ai.onnx")


class Node(Protocol):
    """A node as ONNX Runtime tells of it."""

    domain: str
    op_type: str
    name: str


@dataclass(frozen=True)
class NodesOnCpu:
    """Nodes by operator and name: those that the GPU should run, and shape arithmetic."""

    misplaced: list[str]
    shapes: list[str]


def sort_nodes(nodes: Iterable[Node]) -> NodesOnCpu:
    """Tell the nodes that are on the CPU for want of a kernel from those that belong there."""
    found = NodesOnCpu([], [])
    for node in nodes:
        is_shape = node.domain in _STANDARD and node.op_type in SHAPE_OPERATORS
        kind = found.shapes if is_shape else found.misplaced
        kind.append(f"{node.op_type} {node.name}")
    return found
