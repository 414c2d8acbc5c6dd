"""Precisions are data: files, tolerances and limits."""

import pytest

from model_export.entry.precisions import PRECISIONS


def test_each_precision_has_its_own_graph():
    graphs = [each.graph for each in PRECISIONS.values()]
    assert graphs == ["model.onnx", "model.fp16.onnx", "model.int8.onnx"]


def test_every_precision_but_fp32_has_limits_for_both_tasks():
    """Without limits, `VT_PRECISION=auto` would never choose it."""
    assert not PRECISIONS["fp32"].limits
    for name in ("fp16", "int8"):
        assert PRECISIONS[name].limits.keys() == {"classification", "segmentation"}
        assert all(PRECISIONS[name].limits.values())


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_self_test_tolerates_another_device_but_not_another_model(name):
    precision = PRECISIONS[name]
    assert precision.self_test.max_relative_difference <= 0.05
    assert precision.self_test.agreement >= 0.98
    if not precision.answers_only:  # int8 is compared with its own outputs
        assert precision.parity.max_relative_difference <= 0.05
