"""Module and graph have the same interface; a missing execution provider is refused."""

import numpy as np
import onnxruntime
import pytest

from model_export.comparison.predictors import graph_predictor
from model_export.errors import InvalidEntry
from model_export.execution_providers import CPU, CUDA
from tests.model_export.networks import photographs


def test_a_predictor_returns_every_output_by_name_or_the_answer_alone(exported):
    graph = exported("vt_resnet18").graph
    everything = graph_predictor(graph)(photographs(2))
    answer = graph_predictor(graph, answer_only=True, threads=1)(photographs(2))
    assert list(everything) == ["logits", "tokens", "token_attention"]
    assert list(answer) == ["logits"]
    np.testing.assert_allclose(answer["logits"], everything["logits"], rtol=1e-5)


def test_an_execution_provider_that_this_onnx_runtime_lacks_is_refused(exported, monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(
        InvalidEntry, match=f"installed ONNX Runtime has no {CUDA}; install the `gpu` extra"
    ):
        graph_predictor(exported("vt_resnet18").graph, CUDA)


def test_falling_back_to_another_execution_provider_is_refused(exported, monkeypatch):
    """ONNX Runtime falls back if a GPU's libraries are missing; the figures would be the CPU's."""
    graph, start = exported("vt_resnet18").graph, onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda source, options, providers: start(source, options, providers=[CPU]),
    )
    with pytest.raises(InvalidEntry, match=f"ONNX Runtime could not start {CUDA}"):
        graph_predictor(graph, CUDA)
