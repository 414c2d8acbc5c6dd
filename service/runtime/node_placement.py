"""Nodes of a graph on a GPU that run on the CPU, by design or for lack of a kernel."""

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
"""Operators that exporters use to compute shapes.

CUDA has kernels for these, for every type of an image's tensors. ONNX Runtime puts such a node on
the CPU if it reads only shapes, numbers computed from shapes, and constants of at most 100 numbers
(`GetCpuPreferredNodes` in its source): a few integers that would otherwise be copied to the GPU.
A node without a CUDA kernel has another operator. ONNX Runtime reports only operator and name.
"""

_STANDARD = ("", "ai.onnx")


class Node(Protocol):
    """A node as ONNX Runtime reports it."""

    domain: str
    op_type: str
    name: str


@dataclass(frozen=True)
class NodesOnCpu:
    """Nodes by operator and name: those the GPU should run, and shape arithmetic."""

    misplaced: list[str]
    shapes: list[str]


def sort_nodes(nodes: Iterable[Node]) -> NodesOnCpu:
    """Separate nodes that run on the CPU for lack of a kernel from those that belong there."""
    found = NodesOnCpu([], [])
    for node in nodes:
        is_shape = node.domain in _STANDARD and node.op_type in SHAPE_OPERATORS
        kind = found.shapes if is_shape else found.misplaced
        kind.append(f"{node.op_type} {node.name}")
    return found
