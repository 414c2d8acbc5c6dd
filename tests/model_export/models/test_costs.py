"""The models cost what the paper published and what its tables imply.

MACs and parameters are in millions; the paper truncates printed digits instead of rounding.
"""

import json
import math

import pytest

from model_export.errors import InvalidModel
from model_export.models.costs import describe
from model_export.models.registry import MODELS, dimensions_of


def described(model, size=None, **changes):
    return describe(dimensions_of(model, **changes), size)


def layer(description, name):
    return next(each for each in description.layers if each.name == name)


@pytest.mark.parametrize(
    ("model", "macs", "parameters"),
    [
        ("resnet18", 1814.07, 11.69),
        ("resnet34", 3663.76, 21.80),
        ("resnet50", 4089.18, 25.56),
        ("resnet101", 7801.41, 44.55),
    ],
)
def test_plain_resnets_have_the_well_known_costs(model, macs, parameters):
    description = described(model)
    assert round(description.macs / 1e6, 2) == macs
    assert round(description.parameters / 1e6, 2) == parameters


@pytest.mark.parametrize(
    ("model", "stride_in_1x1", "macs", "parameters"),
    [
        pytest.param("vt_resnet18", None, 1402.52, 2.783, id="R18"),
        pytest.param("vt_resnet34", None, 3021.00, 8.170, id="R34"),
        pytest.param("vt_resnet50", None, 3277.90, 8.543, id="R50"),
        pytest.param("vt_resnet50", True, 3123.76, 8.543, id="R50 stride in 1x1"),
        pytest.param("vt_resnet101", None, 6990.12, 27.535, id="R101"),
        pytest.param("vt_resnet101", True, 6835.98, 27.535, id="R101 stride in 1x1"),
    ],
)
def test_trunks_cost_exactly_the_first_four_stages(model, stride_in_1x1, macs, parameters):
    trunk = layer(described(model, stride_in_1x1=stride_in_1x1), "trunk")
    assert round(trunk.macs / 1e6, 2) == macs
    assert round(trunk.parameters / 1e6, 3) == parameters


@pytest.mark.parametrize(
    ("model", "macs", "parameters"),
    [("vt_resnet18", 1579, (11.6, 11.7)), ("vt_resnet34", 3299, (21.8, 21.9))],
)
def test_vt_resnet18_and_34_cost_within_1_percent_of_the_paper(model, macs, parameters):
    description = described(model)
    assert description.macs / 1e6 == pytest.approx(macs, rel=0.01)
    low, high = parameters
    assert 0.99 * low <= description.parameters / 1e6 <= 1.01 * high


@pytest.mark.parametrize(
    ("model", "stride_in_1x1", "macs", "parameters"),
    [
        pytest.param("vt_resnet50", True, 3441, 22.1, id="R50 stride in 1x1"),
        pytest.param("vt_resnet50", None, 3595, 22.1, id="R50 as torchvision"),
        pytest.param("vt_resnet101", True, 7153, 41.1, id="R101 stride in 1x1"),
        pytest.param("vt_resnet101", None, 7307, 41.1, id="R101 as torchvision"),
    ],
)
def test_vt_resnet50_and_101_cost_what_their_layers_imply(model, stride_in_1x1, macs, parameters):
    description = described(model, stride_in_1x1=stride_in_1x1)
    assert round(description.macs / 1e6) == macs
    assert round(description.parameters / 1e6, 1) == parameters


@pytest.mark.parametrize(
    ("model", "total", "module", "module_tolerance"),
    [
        ("fpn_resnet50", 159, 55.1, 0.01),
        ("vt_fpn_resnet50", 113, 8.5, 0.05),
        ("fpn_resnet101", 231, 55.1, 0.01),
        ("vt_fpn_resnet101", 185, 8.5, 0.05),
    ],
)
def test_pyramids_cost_what_the_paper_says(model, total, module, module_tolerance):
    description = described(model, stride_in_1x1=True)
    assert description.input_size == (800, 1216)
    assert description.macs / 1e9 == pytest.approx(total, rel=0.01)
    assert description.module_macs / 1e9 == pytest.approx(module, rel=module_tolerance)


@pytest.mark.parametrize(
    ("changes", "macs", "parameters"),
    [
        pytest.param({"tokenizer": "pooling"}, 1550, 11.0, id="pooling"),
        pytest.param({"tokenizer": "clustering"}, 1580, 11.6, id="clustering"),
        pytest.param({}, 1579, 11.6, id="filter then recurrent"),
        pytest.param({"tokenizer": "filter"}, 1564, 11.1, id="without recurrent"),
        pytest.param({"token_relation": "none"}, 1528, 8.5, id="no token relation"),
        pytest.param({"token_relation": "graph"}, 1528, 8.5, id="graph"),
        pytest.param({"projector": False}, 1497, 9.3, id="without projector"),
    ],
)
def test_the_ablations_of_vt_resnet18_cost_what_the_paper_says(changes, macs, parameters):
    description = described("vt_resnet18", **changes)
    assert description.macs / 1e6 == pytest.approx(macs, abs=1)
    assert math.floor(description.parameters / 1e5) / 10 == parameters


def test_the_number_of_heads_does_not_change_the_costs():
    one, four = described("vt_resnet18"), described("vt_resnet18", heads=4)
    assert (one.macs, one.parameters) == (four.macs, four.parameters)


def test_more_tokens_cost_more():
    costs = [described("vt_resnet18", tokens=tokens).macs for tokens in (16, 32, 64)]
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
def test_a_vt_model_is_cheaper_than_the_model_it_replaces(depth):
    assert described(f"vt_resnet{depth}").macs < described(f"resnet{depth}").macs
    vt_fpn, fpn = described(f"vt_fpn_resnet{depth}"), described(f"fpn_resnet{depth}")
    assert vt_fpn.macs < fpn.macs
    assert vt_fpn.module_macs < fpn.module_macs / 5


@pytest.mark.parametrize("size", [(800, 1200), (30, 64), (0, 32), (-32, 32)])
def test_a_segmentation_size_must_be_a_multiple_of_32(size):
    with pytest.raises(InvalidModel, match="multiples of 32"):
        described("fpn_resnet18", size)


def test_a_classification_size_must_be_at_least_the_stride():
    with pytest.raises(InvalidModel, match="at least 32"):
        described("vt_resnet18", (224, 31))


def test_classes_and_input_size_change_the_costs():
    small = described("resnet18", (112, 112), classes=10)
    assert small.macs < described("resnet18").macs / 3
    assert described("resnet18").parameters - small.parameters == 990 * 513


@pytest.mark.parametrize("model", MODELS)
def test_the_json_has_the_same_keys_for_every_model(model):
    size = (64, 64)
    data = json.loads(json.dumps(described(model, size).as_dict()))
    keys = {"model", "task", "dimensions", "input_size", "parameters", "macs"}
    segmentation = "fpn" in model
    assert data.keys() == keys | ({"module_macs"} if segmentation else set())
    assert data["model"] == model
    assert data["task"] == ("segmentation" if segmentation else "classification")
    assert data["input_size"] == [64, 64]
    assert data["dimensions"]["classes"] == (54 if segmentation else 1000)


def test_the_layers_add_up_to_the_total():
    description = described("vt_fpn_resnet18", (64, 96))
    parts = [each for each in description.layers if "." not in each.name]
    assert {each.name for each in parts} == {"backbone", "pyramid", "head"}
    assert sum(each.macs for each in parts) == description.macs
    assert sum(each.parameters for each in parts) == description.parameters
