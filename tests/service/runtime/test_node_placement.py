"""Nodes on the CPU that matter, and those that ONNX Runtime puts there on purpose."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from service.runtime.node_placement import SHAPE_OPERATORS, sort_nodes

WEIGHTS = Path(__file__).parents[3] / "weights"
SMALL = 100


def node(op_type: str, name: str = "n", domain: str = "") -> SimpleNamespace:
    return SimpleNamespace(op_type=op_type, name=name, domain=domain)


def test_shape_arithmetic_is_separated_from_nodes_that_the_gpu_should_run() -> None:
    nodes = [node("Shape", "a"), node("Resize", "b"), node("Concat", "c"), node("Conv", "d")]
    found = sort_nodes(nodes)
    assert found.misplaced == ["Resize b", "Conv d"]
    assert found.shapes == ["Shape a", "Concat c"]


@pytest.mark.parametrize("domain", ["com.microsoft", "ai.onnx.ml"])
def test_an_operator_of_another_domain_is_no_shape_arithmetic(domain: str) -> None:
    assert sort_nodes([node("Gather", "a", domain)]).misplaced == ["Gather a"]
    assert sort_nodes([node("Gather", "a", "ai.onnx")]).misplaced == []


@pytest.mark.parametrize(
    "operator",
    ["Conv", "MatMul", "Gemm", "Softmax", "Resize", "Transpose", "ArgMax", "DequantizeLinear"],
)
def test_operators_on_pixels_and_features_are_no_shape_arithmetic(operator: str) -> None:
    assert operator not in SHAPE_OPERATORS


def test_the_operators_are_those_of_the_docs() -> None:
    text = (WEIGHTS.parent / "docs" / "metrics.md").read_text()
    _, _, listed = text.partition("compute shapes with: ")
    assert set(re.findall(r"`(\w+)`", listed.partition(". ")[0])) == SHAPE_OPERATORS


def placed_on_cpu(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Nodes that read nothing but shapes, what comes of shapes, and small constants.

    ONNX Runtime's rule in short (`GetCpuPreferredNodes` in fallback_cpu_capability.cc).
    """
    sizes = {each.name: np.prod(each.dims) for each in graph.initializer}
    shapes: set[str] = set()
    placed = []
    for each in graph.node:  # in topological order
        reads = [name for name in each.input if sizes.get(name, SMALL + 1) > SMALL]
        if each.op_type in ("Shape", "Size"):
            shapes |= set(each.output)
        elif reads and shapes.issuperset(reads):
            shapes |= set(each.output)
            placed.append(each)
    return placed


@pytest.mark.parametrize(
    "path", sorted(WEIGHTS.glob("*/*/model*.onnx")), ids=lambda path: "/".join(path.parts[-3:])
)
def test_nothing_that_onnx_runtime_puts_on_the_cpu_of_a_shipped_graph_is_counted(
    path: Path,
) -> None:
    placed = placed_on_cpu(onnx.load(path, load_external_data=False).graph)
    assert len(placed) > 5
    assert sort_nodes(placed).misplaced == []
