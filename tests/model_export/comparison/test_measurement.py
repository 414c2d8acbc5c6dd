"""Batch invariance and latency are measured beside parity."""

import itertools
import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model_export.comparison import measurement as measuring
from model_export.comparison.measurement import LATENCY_RUNS, batch_invariance, latency, measure
from model_export.comparison.parity import Comparison
from model_export.preprocessing import Buckets, Preprocessing, Squash
from tests.model_export.networks import photographs

PREPROCESSING = {
    "resnet18": Preprocessing(Squash(64, 64)),
    "vt_fpn_resnet18": Preprocessing(Buckets.around(32)),
}


@pytest.fixture
def comparison(exported, photos):
    def comparison(model: str) -> Comparison:
        each = exported(model)
        return Comparison(each.model, each.graph, PREPROCESSING[model], photos, max_batch_size=4)

    return comparison


@pytest.mark.parametrize(
    ("model", "scores"), [("resnet18", "logits"), ("vt_fpn_resnet18", "scores")]
)
def test_an_image_has_the_same_answer_in_a_batch_as_alone(comparison, model, scores):
    invariance = batch_invariance(comparison(model), photographs(5))
    assert invariance["batches"] == [1, 5]
    assert invariance["max_absolute_difference"][scores] < 1e-4
    assert max(invariance["max_absolute_difference"].values()) < 1e-3
    assert invariance["agreement"] == 1


def test_a_graph_whose_answers_depend_on_the_batch_is_detected(comparison, tmp_path):
    """The logits lose the mean of their batch."""
    given = comparison("resnet18")
    proto = onnx.load(given.graph)
    for node in proto.graph.node:
        node.output[:] = ["own" if name == "logits" else name for name in node.output]
    proto.graph.initializer.append(numpy_helper.from_array(np.array([0]), "first_axis"))
    proto.graph.node.append(helper.make_node("ReduceMean", ["own", "first_axis"], ["batch_mean"]))
    proto.graph.node.append(helper.make_node("Sub", ["own", "batch_mean"], ["logits"]))
    onnx.save(proto, tmp_path / "dependent.onnx")
    dependent = Comparison(given.model, tmp_path / "dependent.onnx", given.preprocessing, [], 4)
    invariance = batch_invariance(dependent, photographs(8))
    assert invariance["max_absolute_difference"]["logits"] > 0.01
    assert invariance["agreement"] < 1


def test_the_latency_is_the_median_of_one_image_on_one_thread(comparison, monkeypatch):
    calls, settings = [], {}

    def predictor(graph, provider, **options):
        settings.update(options)
        return calls.append

    clock = itertools.accumulate(
        itertools.chain.from_iterable((1, seconds) for seconds in range(1, LATENCY_RUNS + 1))
    )
    monkeypatch.setattr(measuring, "graph_predictor", predictor)
    image = photographs(1, 48, 32)
    figures = latency(comparison("resnet18"), image, clock=lambda: float(next(clock)))
    assert settings == {"threads": 1, "answer_only": True}
    assert len(calls) == 1 + LATENCY_RUNS  # the first call warms up
    assert figures.pop("processor")
    assert figures == {
        "batch": 1,
        "size": [48, 32],
        "intra_op_num_threads": 1,
        "milliseconds": 1000 * (LATENCY_RUNS + 1) / 2,
    }


def test_a_measurement_is_a_parity_and_a_section_of_plain_json(comparison):
    parity, section = measure(comparison("resnet18"))
    assert section.keys() == {"parity", "batch_invariance", "latency"}
    assert section["parity"] == parity.as_dict()
    assert section["batch_invariance"]["batches"] == [1, 8]
    assert section["latency"]["milliseconds"] > 0
    assert json.loads(json.dumps(section)) == section
