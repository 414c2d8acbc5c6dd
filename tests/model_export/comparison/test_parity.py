"""A graph that differs from its checkpoint fails, and the numbers show which output differs."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from model_export.comparison.parity import (
    Comparison,
    Parity,
    compare,
    require_parity,
    verification_sizes,
)
from model_export.entry.precisions import PRECISIONS
from model_export.errors import InvalidData, InvalidEntry, VerificationFailed
from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash

CLASSIFIER, SEGMENTER = "vt_resnet18", "vt_fpn_resnet18"
SCORES = {CLASSIFIER: "logits", SEGMENTER: "scores"}
LEVELS = [f"token_attention_stride_{stride}" for stride in (4, 8, 16, 32)]
PREPROCESSING = {
    CLASSIFIER: Preprocessing(Squash(64, 64)),
    SEGMENTER: Preprocessing(Buckets.around(32)),
}


@pytest.fixture(params=[CLASSIFIER, SEGMENTER])
def model(request) -> str:
    return request.param


@pytest.fixture
def verify(exported, tmp_path, photos):
    """Compare a module with its graph, optionally after breaking the graph."""

    def verify(model, break_graph=None, **options) -> Parity:
        each = exported(model)
        graph = each.graph
        if break_graph is not None:
            proto = onnx.load(graph)
            break_graph(proto.graph)
            graph = tmp_path / "broken.onnx"
            onnx.save(proto, graph)
        comparison = Comparison(each.model, graph, PREPROCESSING[model], photos, max_batch_size=8)
        return compare(dataclasses.replace(comparison, **options))

    return verify


def change(graph: onnx.GraphProto, name: str, function) -> None:
    tensor = next(t for t in graph.initializer if t.name == name)
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(function(values).astype(values.dtype), name))


def one_weight(graph: onnx.GraphProto) -> None:
    """Negate the largest weight of one convolution."""
    convolutions = ("head.levels.0.0.weight", "layer3.0.conv1.weight")
    names = [t.name for end in convolutions for t in graph.initializer if t.name.endswith(end)]

    def negate_largest(values):
        values.flat[np.abs(values).argmax()] *= -1
        return values

    change(graph, names[0], negate_largest)


def not_a_number(graph: onnx.GraphProto) -> None:
    name = next(t.name for t in graph.initializer if t.name.endswith("layer3.0.conv1.weight"))

    def spoil(values):
        values.flat[7] = np.nan
        return values

    change(graph, name, spoil)


def swapped_channels(graph: onnx.GraphProto) -> None:
    """Swap RGB to BGR."""
    for node in graph.node:
        node.input[:] = ["swapped" if name == "images" else name for name in node.input]
    order = numpy_helper.from_array(np.array([2, 1, 0]), "order")
    graph.initializer.append(order)
    graph.node.insert(0, helper.make_node("Gather", ["images", "order"], ["swapped"], axis=3))


def missing_normalisation(graph: onnx.GraphProto) -> None:
    """Use mean 0 and standard deviation 1."""
    scale, shift = sorted(
        (t for t in graph.initializer if list(t.dims) == [3, 1, 1]),
        key=lambda t: -numpy_helper.to_array(t).max(),
    )
    if numpy_helper.to_array(scale).max() < 0:
        scale, shift = shift, scale
    change(graph, scale.name, lambda values: np.full_like(values, 1 / 255))
    change(graph, shift.name, np.zeros_like)


def test_an_equal_graph_passes(verify, model, photos):
    parity = verify(model)
    assert parity.failures == []
    assert parity.agreement > 0.9999
    assert parity.batches == [1, 2, 7, 8]
    assert parity.real_images == len(photos) == 3
    assert parity.provider == "CPUExecutionProvider"
    outputs = {
        CLASSIFIER: {"logits", "tokens", "token_attention"},
        SEGMENTER: {"scores", "tokens", *LEVELS},
    }
    assert parity.max_relative_difference.keys() == outputs[model]
    assert max(parity.max_relative_difference.values()) < 1e-5
    assert parity.random_images == 4 * len(parity.sizes)
    require_parity(parity)


def test_a_classifier_is_compared_at_its_one_size(verify):
    assert verify(CLASSIFIER).sizes == [(64, 64)]


def test_a_segmenter_is_compared_at_several_sizes(verify):
    sizes = verify(SEGMENTER, preprocessing=Preprocessing(Buckets.around(64))).sizes
    assert len(set(sizes)) == len(sizes) == 5
    assert any(height > width for height, width in sizes)
    assert any(height < width for height, width in sizes)
    assert all(side % 32 == 0 for size in sizes for side in size)


@pytest.mark.parametrize(
    "break_graph",
    [one_weight, swapped_channels, missing_normalisation, not_a_number],
    ids=lambda function: function.__name__.replace("_", " "),
)
def test_a_graph_with_different_outputs_fails(verify, model, break_graph):
    parity, scores = verify(model, break_graph), SCORES[model]
    assert any(f"{scores} differs by" in sentence for sentence in parity.failures)
    assert not parity.max_relative_difference[scores] <= 5e-4
    with pytest.raises(
        VerificationFailed, match=f"{scores} differs by .* of its largest magnitude"
    ):
        require_parity(parity)


def test_an_int8_graph_with_a_nan_weight_fails(verify, model):
    parity = verify(model, not_a_number, precision="int8")
    assert np.isnan(parity.max_relative_difference[SCORES[model]])
    with pytest.raises(VerificationFailed, match=f"{SCORES[model]} differs by nan"):
        require_parity(parity)


def test_a_changed_token_is_detected_even_if_the_logits_are_equal(verify):
    def scale_tokens(graph):
        for node in graph.node:
            node.output[:] = ["unscaled" if name == "tokens" else name for name in node.output]
            node.input[:] = ["unscaled" if name == "tokens" else name for name in node.input]
        graph.initializer.append(numpy_helper.from_array(np.float32(1.01), "factor"))
        graph.node.append(helper.make_node("Mul", ["unscaled", "factor"], ["tokens"]))

    parity = verify(CLASSIFIER, scale_tokens)
    assert parity.max_relative_difference["logits"] < 1e-5
    assert [sentence.split()[0] for sentence in parity.failures] == ["tokens"]


def test_answers_that_disagree_fail_regardless_of_the_differences(verify):
    def rotate_classes(graph):
        argmax = next(node for node in reversed(graph.node) if node.op_type == "ArgMax")
        graph.initializer.append(numpy_helper.from_array(np.array([1, 2, 0]), "rotation"))
        place = list(graph.node).index(argmax)
        gather = helper.make_node("Gather", [argmax.input[0], "rotation"], ["rotated"], axis=1)
        graph.node.insert(place, gather)
        argmax.input[0] = "rotated"

    parity = verify(SEGMENTER, rotate_classes)
    assert parity.agreement < 0.5
    assert any("of the answers agree" in sentence for sentence in parity.failures)


def test_a_truncated_graph_is_refused(exported, tmp_path, model):
    each = exported(model)
    content = each.graph.read_bytes()
    for share in (0, 0.3, 0.99):
        broken = tmp_path / "truncated.onnx"
        broken.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InvalidEntry, match="cannot load the graph"):
            compare(Comparison(each.model, broken, PREPROCESSING[model], [], 2))


def test_a_missing_graph_is_refused(exported, tmp_path):
    model, nowhere = exported(CLASSIFIER).model, tmp_path / "nowhere.onnx"
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        compare(Comparison(model, nowhere, PREPROCESSING[CLASSIFIER], [], 2))


def test_a_graph_of_another_number_of_classes_is_refused(verify):
    def drop_a_class(graph):
        for node in graph.node:
            node.output[:] = ["all" if name == "logits" else name for name in node.output]
        graph.initializer.append(numpy_helper.from_array(np.array([0, 1]), "kept"))
        graph.node.append(helper.make_node("Gather", ["all", "kept"], ["logits"], axis=1))
        logits = next(output for output in graph.output if output.name == "logits")
        logits.type.tensor_type.shape.dim[1].dim_value = 2

    with pytest.raises(InvalidEntry, match=r"logits has shape \(1, 2\), expected \(1, 3\)"):
        verify(CLASSIFIER, drop_a_class)


def test_a_graph_without_one_of_the_outputs_is_refused(verify):
    def drop_attention(graph):
        graph.output.remove(next(o for o in graph.output if o.name == "token_attention"))

    with pytest.raises(InvalidEntry, match="no output token_attention"):
        verify(CLASSIFIER, drop_attention)


def test_a_graph_of_one_fixed_batch_size_is_refused(verify):
    def fix_batch(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(InvalidEntry, match="cannot run the graph"):
        verify(CLASSIFIER, fix_batch)


def test_the_certificates_section_is_plain_json(verify):
    data = verify(CLASSIFIER, max_batch_size=2).as_dict()
    assert data["batches"] == [1, 2, 7]
    assert data["sizes"] == [[64, 64]]
    assert data["tolerance"] == {"max_relative_difference": 5e-4, "agreement": 0.9999}
    assert "provider" not in data
    assert "precision" not in data


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("difference", "agreement", "failures"),
    [
        (1.0, 0.0, 0),
        (1.02, 0.0, 1),
        (0.0, -0.0001, 1),
        (float("nan"), 0.0, 1),
        (float("inf"), float("nan"), 2),
    ],
    ids=["at the limit", "too far", "too few", "not a number", "no number at all"],
)
def test_a_number_outside_the_tolerance_or_nan_is_a_failure(
    precision, difference, agreement, failures
):
    """`difference` is a multiple of the tolerance, `agreement` is relative to the least allowed."""
    limit = PRECISIONS[precision].parity
    parity = Parity("CPU", [1], [(64, 64)], 0, 4, precision=precision)
    parity.max_relative_difference = {"logits": difference * limit.max_relative_difference}
    parity.agreement = limit.agreement + agreement
    assert len(parity.failures) == failures
    assert parity.as_dict()["tolerance"] == dataclasses.asdict(limit)


@pytest.mark.parametrize(
    ("precision", "judged"),
    [
        ("fp32", ["logits", "scores", "tokens", "token_attention"]),
        ("fp16", ["logits", "scores", "tokens", "token_attention"]),
        ("int8", ["logits", "scores"]),
    ],
)
def test_int8_is_judged_by_the_scores_alone_but_records_every_output(precision, judged):
    differences = {"logits": 9.0, "scores": 9.0, "tokens": 9.0, "token_attention": 9.0}
    parity = Parity("CPU", [1], [(64, 64)], 0, 4, agreement=1.0, precision=precision)
    parity.max_relative_difference = differences
    assert [sentence.split()[0] for sentence in parity.failures] == judged
    assert parity.as_dict()["max_relative_difference"] == differences


@pytest.mark.parametrize(
    ("resize", "sizes"),
    [
        (Squash(96, 128), [(96, 128)]),
        (Crop(256, 224, 224), [(224, 224)]),
        (Buckets.around(320), [(320, 416), (416, 320), (320, 576), (320, 320), (32, 64)]),
    ],
    ids=["squash", "crop", "buckets"],
)
def test_the_sizes_follow_from_the_preprocessing(resize, sizes):
    assert verification_sizes(Preprocessing(resize)) == sizes


def test_a_photo_that_cannot_be_read_is_refused_by_name(exported, tmp_path):
    broken: Path = tmp_path / "broken.png"
    broken.write_bytes(b"no photo")
    each = exported(CLASSIFIER)
    with pytest.raises(InvalidData, match=r"broken\.png cannot be read as an image"):
        compare(Comparison(each.model, each.graph, PREPROCESSING[CLASSIFIER], [broken], 2))
