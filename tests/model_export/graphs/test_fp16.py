"""The float16 graph has the inputs and outputs of the float32 graph, and close values."""

import onnx
import pytest
from onnx import TensorProto, shape_inference

from model_export import checkpoint
from model_export.comparison.parity import Comparison, compare
from model_export.entry.version import CHECKPOINT, open_version
from model_export.graphs.external_data import external_files
from model_export.graphs.fp16 import fp16_graph
from model_export.preprocessing import Buckets, Preprocessing, Squash
from tests.model_export.onnx_graphs import operators, signature

MODELS = {
    "classifier": ("vt_resnet18", {}),
    "clustering": ("vt_resnet18", {"tokenizer": "clustering"}),  # its sums are of another kind
    "segmenter": ("vt_fpn_resnet18", {}),
}


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def converted(request, exported, tmp_path_factory):
    """An exported model and its float16 graph, from a float32 checkpoint."""
    model, changes = request.param
    each = exported(model, **changes)
    folder = tmp_path_factory.mktemp("fp16")
    source, graph = folder / "checkpoint.safetensors", folder / "model.fp16.onnx"
    checkpoint.write(source, each.model.network, each.dimensions, {}, half=False)
    graph.write_bytes(fp16_graph(each.graph, source))
    return each, graph


def test_inputs_and_outputs_keep_their_names_types_and_shapes(converted):
    each, graph = converted
    assert signature(onnx.load(graph)) == signature(onnx.load(each.graph))


def test_outputs_are_close_to_the_checkpoints(converted, photos):
    each, graph = converted
    segments = each.dimensions.task == "segmentation"
    preprocessing = Preprocessing(Buckets.around(32) if segments else Squash(64, 64))
    parity = compare(Comparison(each.model, graph, preprocessing, photos, 4, precision="fp16"))
    assert parity.failures == []
    assert 1e-6 < max(parity.max_relative_difference.values()) < 5e-3
    assert parity.agreement > 0.999


def test_the_file_passes_the_checker(converted):
    onnx.checker.check_model(converted[1], full_check=True)


def test_every_weight_and_every_convolution_is_float16(converted):
    proto = shape_inference.infer_shapes(onnx.load(converted[1]))
    tensors = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    assert TensorProto.FLOAT not in {tensors[name] for name in tensors if "weight" in name}
    types = {value.name: value.type.tensor_type.elem_type for value in proto.graph.value_info}
    convolutions = operators(proto, "Conv")
    assert len(convolutions) > 30
    assert {types[node.output[0]] for node in convolutions} == {TensorProto.FLOAT16}


def test_a_checkpoint_in_float32_is_not_shared(converted):
    assert external_files(converted[1]) == []


def test_a_checkpoint_in_float16_is_shared_and_the_same_graph_has_the_same_bytes(
    quantized_weights,
):
    version = open_version(quantized_weights, "colors")
    graph = version.graph("fp16")
    assert external_files(graph) == ["checkpoint.safetensors"]
    assert graph.stat().st_size < 200_000
    again = fp16_graph(version.graph(), version.folder / CHECKPOINT)
    assert again == graph.read_bytes()
