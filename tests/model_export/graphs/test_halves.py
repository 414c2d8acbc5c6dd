"""Weights are stored as float16 if that is exact, and restored to the bit."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import open_version
from model_export.graphs.halves import restore_halves, store_halves
from tests.model_export.onnx_graphs import operators, product, weights_of

IMAGES = np.random.default_rng(1).normal(size=(1, 32)).astype(np.float32)


def exact(shape=(32, 32)) -> np.ndarray:
    """Float32 numbers that float16 represents exactly."""
    return np.random.default_rng(0).normal(size=shape).astype(np.float16).astype(np.float32)


def products(proto: onnx.ModelProto) -> np.ndarray:
    return graph_predictor(proto.SerializeToString())(IMAGES)["products"]


def test_storing_halves_the_weights_and_leaves_the_outputs():
    proto = product(exact())
    expected = products(proto)
    store_halves(proto)
    onnx.checker.check_model(proto, full_check=True)
    assert [tensor.data_type for tensor in proto.graph.initializer] == [TensorProto.FLOAT16]
    assert np.array_equal(products(proto), expected)


def test_restoring_is_the_inverse_of_storing():
    proto, before = product(exact()), product(exact())
    store_halves(proto)
    assert proto != before
    restore_halves(proto)
    assert proto == before


def one_changed(value: float) -> np.ndarray:
    weights = exact()
    weights[3, 5] = value
    return weights


@pytest.mark.parametrize(
    "weights",
    [one_changed(0.1), one_changed(1e6), one_changed(1e-9), one_changed(np.nan), exact((32, 4))],
    ids=["rounded", "too large", "too small", "not a number", "few"],
)
def test_tensors_that_are_inexact_in_float16_or_small_are_left_alone(weights):
    proto = product(weights)
    before = proto.SerializeToString()
    store_halves(proto)
    assert proto.SerializeToString() == before


def test_other_types_are_left_alone():
    proto = product(exact())
    numbers = numpy_helper.from_array(np.arange(1000), "numbers")
    proto.graph.initializer.append(numbers)
    store_halves(proto)
    assert np.array_equal(weights_of(proto)["numbers"], np.arange(1000))


def test_other_casts_are_not_removed():
    proto = product(exact())
    proto.graph.node[0].input[0] = "wide"
    cast = helper.make_node("Cast", ["images"], ["wide"], to=TensorProto.FLOAT)
    proto.graph.node.insert(0, cast)
    store_halves(proto)
    restore_halves(proto)
    assert [node.output[0] for node in operators(proto, "Cast")] == ["wide"]


def test_a_model_of_half_weights_is_restored_and_stored_again_to_the_bit(classifier_weights):
    graph = open_version(classifier_weights, "colors").graph()
    proto, before = onnx.load(graph), onnx.load(graph)
    restore_halves(proto)
    types = {tensor.data_type for tensor in proto.graph.initializer}
    assert TensorProto.FLOAT16 not in types
    store_halves(proto)
    assert proto.graph.node == before.graph.node
    weights, expected = weights_of(proto), weights_of(before)
    assert weights.keys() == expected.keys()
    assert all(np.array_equal(weights[name], expected[name]) for name in weights)
