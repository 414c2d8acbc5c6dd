"""A graph reads the weights that its checkpoint contains from the checkpoint."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import save_file

from model_export import checkpoint
from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import open_version
from model_export.errors import InvalidEntry
from model_export.graphs.external_data import external_files, share_weights
from model_export.graphs.halves import store_halves
from tests.model_export.networks import photographs
from tests.model_export.onnx_graphs import product, weights_of

WEIGHTS = torch.linspace(-2, 2, 32 * 32).half().view(32, 32)
IMAGES = np.ones((1, 32), np.float32)


@pytest.fixture
def shared(tmp_path):
    """Write a checkpoint of these tensors next to a graph that multiplies by `WEIGHTS`."""

    def shared(tensors: dict[str, torch.Tensor], weights: torch.Tensor = WEIGHTS) -> Path:
        save_file(tensors, tmp_path / "checkpoint.safetensors", {"about": "weights"})
        proto = product(weights.float().numpy())
        store_halves(proto)
        share_weights(proto, tmp_path / "checkpoint.safetensors")
        onnx.save(proto, tmp_path / "graph.onnx")
        return tmp_path / "graph.onnx"

    return shared


def checkpoint_of(graph: Path) -> Path:
    return graph.with_name("checkpoint.safetensors")


def products(graph: Path) -> np.ndarray:
    return graph_predictor(graph)(IMAGES)["products"]


OTHERS = {"a": torch.ones(7), "z": torch.arange(500), "zz": -WEIGHTS}


def test_weights_are_read_from_their_place_in_the_checkpoint(shared):
    graph = shared({**OTHERS, "weights": WEIGHTS})
    tensor = onnx.load(graph, load_external_data=False).graph.initializer[0]
    entries = {entry.key: entry.value for entry in tensor.external_data}
    start, length = int(entries["offset"]), int(entries["length"])
    place = checkpoint_of(graph).read_bytes()[start : start + length]
    assert not tensor.raw_data
    assert place == WEIGHTS.numpy().tobytes()
    np.testing.assert_allclose(products(graph)[0], WEIGHTS.float().sum(dim=0), atol=1e-4)


def test_a_changed_byte_in_the_checkpoint_changes_an_output(shared):
    graph = shared({**OTHERS, "weights": WEIGHTS})
    before = products(graph)
    content = checkpoint_of(graph).read_bytes()
    place = content.index(WEIGHTS.numpy().tobytes())
    spoiled = bytearray(content)
    spoiled[place + 3] ^= 1 << 4  # the exponent of the second number, in little endian
    checkpoint_of(graph).write_bytes(spoiled)
    assert (products(graph) != before).sum() == 1


def test_a_graph_without_its_checkpoint_is_refused(shared):
    graph = shared({"weights": WEIGHTS})
    checkpoint_of(graph).unlink()
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        graph_predictor(graph)


@pytest.mark.parametrize(
    "tensors",
    [{"weights": WEIGHTS.float()}, {"weights": WEIGHTS.T.contiguous()}, OTHERS],
    ids=["float32", "transposed", "others"],
)
def test_a_checkpoint_with_other_bytes_shares_nothing_and_the_graph_is_complete(shared, tensors):
    graph = shared(tensors)
    assert external_files(graph) == []
    checkpoint_of(graph).unlink()
    np.testing.assert_allclose(products(graph)[0], WEIGHTS.float().sum(dim=0), atol=1e-4)


def test_small_tensors_stay_in_the_graph(shared):
    small = WEIGHTS[:, :12].contiguous()
    assert external_files(shared({"weights": small}, small)) == []


def test_the_external_files_of_a_graph_are_listed(shared, classifier_weights):
    assert external_files(shared({"weights": WEIGHTS})) == ["checkpoint.safetensors"]
    graph = open_version(classifier_weights, "colors").graph()
    assert external_files(graph) == ["checkpoint.safetensors"]


def test_a_graph_with_shared_weights_has_the_outputs_of_a_complete_one(quantized_weights, tmp_path):
    version = open_version(quantized_weights, "colors")
    graph = version.graph("fp16")
    onnx.save(onnx.load(graph), tmp_path / "whole.onnx")
    assert external_files(tmp_path / "whole.onnx") == []
    assert 100 * graph.stat().st_size < (tmp_path / "whole.onnx").stat().st_size
    expected = graph_predictor(tmp_path / "whole.onnx")(photographs(2))
    actual = graph_predictor(graph)(photographs(2))
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


def test_every_large_weight_is_the_checkpoint_tensor_of_the_same_name(quantized_weights):
    version = open_version(quantized_weights, "colors")
    stored = checkpoint.read(version.folder / "checkpoint.safetensors").tensors
    places = onnx.load(version.graph("fp16"), load_external_data=False).graph.initializer
    outside = {tensor.name for tensor in places if tensor.external_data}
    assert len(outside) > 40
    for name, values in weights_of(onnx.load(version.graph("fp16"))).items():
        if name in outside:
            wanted = stored[name.removeprefix("network.")].numpy()
            assert np.array_equal(values.reshape(-1), wanted.reshape(-1)), name
        else:
            assert values.nbytes < 1024 or not name.startswith("network."), name
