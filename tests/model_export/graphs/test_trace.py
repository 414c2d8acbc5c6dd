"""A graph is one self-contained file with the outputs of the module."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper

from model_export import checkpoint
from model_export.comparison.predictors import graph_predictor, reference_predictor
from model_export.entry.version import open_version
from model_export.models.registry import build
from tests.model_export.networks import photographs

VARIANTS = {
    "resnet": ("resnet18", {}),
    "default": ("vt_resnet18", {}),
    "filter": ("vt_resnet18", {"tokenizer": "filter"}),
    "pooling": ("vt_resnet18", {"tokenizer": "pooling"}),
    "clustering": ("vt_resnet18", {"tokenizer": "clustering"}),
    "graph": ("vt_resnet18", {"token_relation": "graph"}),
    "no relation": ("vt_resnet18", {"token_relation": "none"}),
    "no projector": ("vt_resnet18", {"projector": False}),
    "4 heads": ("vt_resnet18", {"heads": 4}),
}
SEGMENTERS = {
    "fpn": ("fpn_resnet18", {}),
    "vt_fpn": ("vt_fpn_resnet18", {}),
    "recurrent": ("vt_fpn_resnet18", {"tokenizer": "recurrent"}),
    "pooling": ("vt_fpn_resnet18", {"tokenizer": "pooling"}),
    "clustering": ("vt_fpn_resnet18", {"tokenizer": "clustering"}),
}
STRIDES = (4, 8, 16, 32)
DATATYPES = {TensorProto.FLOAT: "FP32", TensorProto.UINT8: "UINT8"}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def classifier(request, exported):
    model, changes = request.param
    return exported(model, **changes)


@pytest.fixture(params=SEGMENTERS.values(), ids=SEGMENTERS.keys())
def segmenter(request, exported):
    model, changes = request.param
    return exported(model, **changes)


def relative_difference(actual, expected) -> float:
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("batch", [1, 3])
def test_a_classifiers_outputs_equal_the_modules(classifier, batch):
    expected = reference_predictor(classifier.model)(photographs(batch))
    actual = graph_predictor(classifier.graph)(photographs(batch))
    assert actual.keys() == expected.keys()
    for name in expected:
        assert actual[name].shape == expected[name].shape
        assert relative_difference(actual[name], expected[name]) < 1e-4


def test_a_classifiers_outputs_have_the_names_and_shapes_of_the_contract(classifier):
    outputs = graph_predictor(classifier.graph)(photographs(2))
    dimensions = classifier.dimensions
    assert outputs["logits"].shape == (2, 3)
    tokens = ["tokens"] if dimensions.uses_tokens else []
    attention = ["token_attention"] if tokens and dimensions.tokenizer != "pooling" else []
    assert list(outputs) == ["logits", *tokens, *attention]
    if tokens:
        assert outputs["tokens"].shape == (2, 16, 1024)
    if attention:
        assert outputs["token_attention"].shape[2:] == (16, 4, 4)
        sums = outputs["token_attention"].sum(axis=(3, 4))
        np.testing.assert_allclose(sums, 1, atol=1e-4)


@pytest.mark.parametrize(
    ("batch", "height", "width"),
    [(1, 32, 64), (3, 64, 32), (2, 96, 128)],
    ids=["smaller", "portrait", "as traced"],
)
def test_a_segmenters_labels_equal_the_modules_at_any_size(segmenter, batch, height, width):
    images = photographs(batch, height, width)
    expected = reference_predictor(segmenter.model)(images)["labels"]
    actual = graph_predictor(segmenter.graph)(images)["labels"]
    assert actual.dtype == np.uint8
    assert actual.shape == (batch, height, width)
    assert (actual == expected).mean() > 0.9999
    assert len(np.unique(expected)) > 1


def test_a_segmenters_outputs_have_the_names_and_shapes_of_the_contract(segmenter):
    images, dimensions = photographs(2, 64, 96), segmenter.dimensions
    outputs, expected = (
        graph_predictor(segmenter.graph)(images),
        reference_predictor(segmenter.model)(images),
    )
    tokens = ["tokens"] if dimensions.uses_tokens else []
    strides = STRIDES if tokens and dimensions.tokenizer != "pooling" else ()
    attention = [f"token_attention_stride_{stride}" for stride in strides]
    assert list(outputs) == list(expected) == ["labels", "scores", *tokens, *attention]
    assert outputs["scores"].shape == (2, 3, 16, 24)
    if tokens:
        assert outputs["tokens"].shape == (2, 4 * dimensions.tokens, 1024)
    for stride, name in zip(strides, attention, strict=True):
        assert outputs[name].shape == (2, dimensions.tokens, 64 // stride, 96 // stride)
        np.testing.assert_allclose(outputs[name].sum(axis=(2, 3)), 1, atol=1e-4)
    for name in ["scores", *tokens, *attention]:
        assert relative_difference(outputs[name], expected[name]) < 1e-4


def test_the_labels_are_the_argmax_of_the_scores_enlarged_bilinearly(exported):
    outputs = graph_predictor(exported("vt_fpn_resnet18").graph)(photographs(1, 64, 96))
    scores = torch.from_numpy(outputs["scores"])
    enlarged = torch.nn.functional.interpolate(scores, size=(64, 96), mode="bilinear")
    assert (enlarged.argmax(dim=1).numpy() == outputs["labels"]).mean() > 0.9999


def graphs(exported):
    return [exported("vt_resnet18"), exported("vt_fpn_resnet18")]


def test_the_input_is_raw_rgb_with_named_dynamic_dimensions(exported):
    classifier, segmenter = (onnx.load(each.graph).graph for each in graphs(exported))
    for graph, dimensions in (
        (classifier, ["batch", 64, 64, 3]),
        (segmenter, ["batch", "height", "width", 3]),
    ):
        assert [value.name for value in graph.input] == ["images"]
        tensor = graph.input[0].type.tensor_type
        assert tensor.elem_type == TensorProto.UINT8
        assert [dim.dim_param or dim.dim_value for dim in tensor.shape.dim] == dimensions


def test_outputs_that_follow_the_photo_have_dimensions_named_by_their_stride(exported):
    outputs = onnx.load(exported("vt_fpn_resnet18").graph).graph.output
    names = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in outputs
    }
    assert names == {
        "labels": ["batch", "height", "width"],
        "scores": ["batch", 3, "height_4", "width_4"],
        "tokens": ["batch", 32, 1024],
        **{
            f"token_attention_stride_{stride}": ["batch", 8, f"height_{stride}", f"width_{stride}"]
            for stride in STRIDES
        },
    }


def test_outputs_have_the_batch_as_their_first_dimension(exported):
    for each in graphs(exported):
        for value in onnx.load(each.graph).graph.output:
            tensor = value.type.tensor_type
            assert DATATYPES[tensor.elem_type] == ("UINT8" if value.name == "labels" else "FP32")
            assert tensor.shape.dim[0].dim_param == "batch"


def test_the_opset_is_20(exported):
    for each in graphs(exported):
        versions = {o.domain or "ai.onnx": o.version for o in onnx.load(each.graph).opset_import}
        assert versions == {"ai.onnx": 20}


def test_no_tensor_is_wider_than_float32(exported):
    for each in graphs(exported):
        graph = onnx.shape_inference.infer_shapes(onnx.load(each.graph)).graph
        kinds = {t.data_type for t in graph.initializer}
        kinds |= {v.type.tensor_type.elem_type for v in graph.value_info}
        assert TensorProto.DOUBLE not in kinds


def test_a_graph_is_one_file(exported, tmp_path):
    each = exported("vt_resnet18")
    alone = shutil.copyfile(each.graph, tmp_path / "moved.onnx")
    assert all(not t.external_data for t in onnx.load(alone).graph.initializer)
    assert graph_predictor(alone)(photographs(1))["logits"].shape == (1, 3)


def test_a_graph_contains_no_traces_of_where_it_was_made(exported):
    marks = [str(Path.cwd()), str(Path.home()), "site-packages", ".py:", "stack_trace", "/tmp"]  # noqa: S108
    for each in graphs(exported):
        proto = onnx.load(each.graph)
        assert not proto.metadata_props
        assert all(not node.metadata_props and not node.doc_string for node in proto.graph.node)
        for tensor in proto.graph.initializer:
            tensor.ClearField("raw_data")
        text = proto.SerializeToString()
        assert [mark for mark in marks if mark.encode() in text] == []


def test_weights_that_are_inexact_in_float16_stay_float32(exported):
    tensors = {t.name: t for t in onnx.load(exported("vt_resnet18").graph).graph.initializer}
    kept = {name for name in tensors if name.startswith("network.") and name.endswith("weight")}
    assert len(kept) > 40
    assert all(tensors[name].data_type == TensorProto.FLOAT for name in kept)


def weights_in_float32(graph: Path) -> dict[str, np.ndarray]:
    """Every named weight as float32, after the Casts of the graph."""
    proto = onnx.load(graph).graph
    tensors = {t.name: numpy_helper.to_array(t) for t in proto.initializer}
    casts = {n.input[0]: n.output[0] for n in proto.node if n.op_type == "Cast"}
    return {casts.get(name, name): value.astype(np.float32) for name, value in tensors.items()}


def test_float16_weights_are_stored_as_float16_and_equal_the_checkpoints_to_the_bit(
    classifier_weights, half_checkpoint
):
    version = open_version(classifier_weights, "colors")
    assert version.graph().stat().st_size < 24e6
    stored = checkpoint.read(half_checkpoint)
    network = build(stored.dimensions)
    checkpoint.load_model(network, stored, stored.dimensions)
    held = weights_in_float32(version.graph())
    names = [f"network.{name}" for name, p in network.named_parameters() if p.numel() >= 256]
    assert len(names) > 40
    parameters = dict(network.named_parameters())
    for name in names:
        wanted = parameters[name.removeprefix("network.")].detach().numpy()
        given = held[name]
        assert np.array_equal(given.reshape(-1), wanted.reshape(-1)), name


def test_storing_weights_as_float16_changes_no_output(classifier_weights, tmp_path):
    """The same graph with its weights widened in the file gives the same bits."""
    version = open_version(classifier_weights, "colors")
    proto = onnx.load(version.graph())
    halves = {t.name: t for t in proto.graph.initializer if t.data_type == TensorProto.FLOAT16}
    assert len(halves) > 40
    casts = [n for n in proto.graph.node if n.op_type == "Cast" and n.input[0] in halves]
    for node in casts:
        values = numpy_helper.to_array(halves[node.input[0]]).astype(np.float32)
        halves[node.input[0]].CopyFrom(numpy_helper.from_array(values, node.output[0]))
        proto.graph.node.remove(node)
    onnx.save(proto, tmp_path / "wide.onnx")
    expected = graph_predictor(tmp_path / "wide.onnx")(photographs(2))
    actual = graph_predictor(version.graph())(photographs(2))
    assert all(np.array_equal(actual[name], expected[name]) for name in expected)


def test_the_graph_normalises_with_the_contracts_mean_and_std(exported):
    """An image of the mean colour looks like an input of zeros."""
    each = exported("resnet18")
    mean = np.round(255 * np.array([0.485, 0.456, 0.406])).astype(np.uint8)
    images = np.broadcast_to(mean, (1, 64, 64, 3)).copy()
    actual = graph_predictor(each.graph)(images)["logits"]
    with torch.inference_mode():
        level = (torch.tensor(mean / 255) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
            [0.229, 0.224, 0.225]
        )
        expected = each.model.network(level.float().view(1, 3, 1, 1).expand(1, 3, 64, 64))
    assert relative_difference(actual, expected.numpy()) < 1e-4


def test_the_file_passes_the_checker(exported):
    for each in graphs(exported):
        onnx.checker.check_model(onnx.load(each.graph), full_check=True)
