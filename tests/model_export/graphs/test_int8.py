"""Convolutions run on 8-bit integers, calibrated on photos; everything else stays float."""

import dataclasses

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from model_export.comparison.evaluation import answers
from model_export.comparison.predictors import graph_predictor
from model_export.errors import InvalidData, InvalidEntry
from model_export.graphs.int8 import (
    CALIBRATION_IMAGES,
    CENTRE,
    calibration_sample,
    fold_normalisation,
    int8_graph,
)
from model_export.preprocessing import Buckets, Preprocessing, Squash, open_image
from tests.model_export.conftest import Exported
from tests.model_export.files import noise_photo
from tests.model_export.networks import photographs
from tests.model_export.onnx_graphs import (
    OPSET,
    consumers,
    operators,
    producers,
    signature,
    weights_of,
)

PREPROCESSING = {
    "vt_resnet18": Preprocessing(Squash(64, 64)),
    "vt_fpn_resnet18": Preprocessing(Buckets.around(32)),
}


@dataclasses.dataclass(frozen=True)
class Quantized:
    """An exported model and its int8 graph."""

    float32: Exported
    preprocessing: Preprocessing
    content: bytes
    proto: onnx.ModelProto


@pytest.fixture(scope="module", params=PREPROCESSING)
def quantized(request, exported, photos) -> Quantized:
    """In the segmenter's head, convolutions share a bias of zeros that the exporter stores once."""
    preprocessing = PREPROCESSING[request.param]
    each = exported(request.param)
    content = int8_graph(each.graph, preprocessing, photos)
    return Quantized(each, preprocessing, content, onnx.load_from_string(content))


def test_inputs_and_outputs_keep_their_names_types_and_shapes(quantized):
    onnx.checker.check_model(quantized.proto)
    assert signature(quantized.proto) == signature(onnx.load(quantized.float32.graph))


def scoring_layer(proto: onnx.ModelProto) -> onnx.NodeProto:
    """The last layer with weights; only resizing, argmax and casts follow it."""
    return (operators(proto, "Gemm") or operators(proto, "Conv"))[-1]


def integer_convolutions(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for node in operators(proto, "Conv") if node != scoring_layer(proto)]


def test_convolutions_run_on_integers(quantized):
    """All their inputs are dequantized 8-bit numbers, and their outputs are quantized again."""
    proto, made_by = quantized.proto, producers(quantized.proto)
    convolutions = integer_convolutions(proto)
    assert len(convolutions) > 30
    for node in convolutions:
        assert {made_by[name].op_type for name in node.input} == {"DequantizeLinear"}
        assert consumers(proto, node.output[0]) == {"QuantizeLinear"}


def test_the_scoring_layer_stays_float(quantized):
    """In 8 bits the two best scores are often equal, and the first would win."""
    proto, made_by = quantized.proto, producers(quantized.proto)
    layer = scoring_layer(proto)
    weights = set(weights_of(proto)) & set(layer.input)
    assert len(weights) == len(layer.input) - 1
    assert "QuantizeLinear" not in consumers(proto, layer.output[0])
    answer = proto.graph.output[0].name
    while answer != layer.output[0]:
        assert made_by[answer].op_type in ("Resize", "ArgMax", "Cast", "Squeeze")
        answer = made_by[answer].input[0]


def test_weights_are_signed_7_bit_numbers_with_one_scale_per_output_channel(quantized):
    tensors, made_by = weights_of(quantized.proto), producers(quantized.proto)
    for node in integer_convolutions(quantized.proto):
        weights, scale = (tensors[name] for name in made_by[node.input[1]].input[:2])
        assert weights.dtype == np.int8
        assert scale.shape == weights.shape[:1]
        assert 60 <= np.abs(weights.astype(int)).max() <= 64


def test_activations_are_unsigned_8_bit_numbers_with_one_scale(quantized):
    tensors = weights_of(quantized.proto)
    for node in operators(quantized.proto, "QuantizeLinear"):
        scale, zero_point = (tensors[name] for name in node.input[1:])
        assert zero_point.dtype == np.uint8
        assert scale.shape == ()


def test_products_of_two_activations_and_softmax_stay_float(quantized):
    proto, made_by = quantized.proto, producers(quantized.proto)
    assert operators(proto, "Softmax")
    for node in operators(proto, "Softmax"):
        assert made_by[node.input[0]].op_type != "DequantizeLinear"
    assert len(operators(proto, "MatMul")) >= 9
    for node in operators(proto, "MatMul"):
        assert {made_by[name].op_type for name in node.input} != {"DequantizeLinear"}


def test_only_standard_onnx_operators_are_used(quantized):
    assert {node.domain for node in quantized.proto.graph.node} <= {"", "ai.onnx"}


def test_the_same_photos_give_the_same_bytes(quantized, photos):
    again = int8_graph(quantized.float32.graph, quantized.preprocessing, photos)
    assert again == quantized.content


def test_answers_agree_with_float32_on_the_calibration_photos(quantized, photos):
    exact, close = graph_predictor(quantized.float32.graph), graph_predictor(quantized.content)
    for photo in photos:
        images = quantized.preprocessing(open_image(photo))[None]
        assert (answers(close(images)) == answers(exact(images))).mean() > 0.95


def test_the_batch_is_dynamic_and_for_segmentation_the_size_too(quantized):
    predict = graph_predictor(quantized.content)
    sizes = [(64, 64)] if "logits" in predict(photographs(1)) else [(32, 96), (96, 64)]
    for height, width in sizes:
        assert answers(predict(photographs(3, height, width))).shape[0] == 3


def test_the_normalisation_is_folded_into_the_first_convolution(quantized):
    """Its input is the image minus a constant: bytes, which 8 bits represent exactly."""
    proto, tensors = quantized.proto, weights_of(quantized.proto)
    subtraction = operators(proto, "Sub")[0]
    assert tensors[subtraction.input[1]] == CENTRE
    quantization = next(n for n in proto.graph.node if subtraction.output[0] in n.input)
    scale, zero_point = (tensors[name] for name in quantization.input[1:])
    assert quantization.op_type == "QuantizeLinear"
    assert scale == pytest.approx(1, abs=0.02)
    assert zero_point == pytest.approx(CENTRE, abs=2)


SCALE, SHIFT = np.array([0.02, 0.015, 0.018]), np.array([-2.0, -1.9, -1.5])


def normalising(operator: str = "Mul") -> onnx.ModelProto:
    """`features` FP32 `[1, 4, 8, 8]` of `images` UINT8 `[1, 8, 8, 3]`: normalise, convolve."""
    chance = np.random.default_rng(0)
    tensors = {
        "scale": SCALE.reshape(3, 1, 1),
        "shift": SHIFT.reshape(3, 1, 1),
        "weight": chance.normal(size=(4, 3, 3, 3)),
        "bias": chance.normal(size=4),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node(operator, ["floats", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "shift"], ["normalised"]),
        helper.make_node("Conv", ["normalised", "weight", "bias"], ["features"], pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "normalising",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [1, 8, 8, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 4, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), name) for name, v in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[OPSET], ir_version=10)


def features_of(proto: onnx.ModelProto) -> np.ndarray:
    onnx.checker.check_model(proto, full_check=True)
    return graph_predictor(proto.SerializeToString())(photographs(1, 8, 8))["features"]


def test_folding_the_normalisation_changes_features_only_at_the_border():
    """A padded 0 then stands for the centre instead of the mean."""
    proto = normalising()
    expected = features_of(proto)
    fold_normalisation(proto.graph)
    actual = features_of(proto)
    assert [node.op_type for node in proto.graph.node] == ["Transpose", "Cast", "Sub", "Conv"]
    np.testing.assert_allclose(actual[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-4)
    assert np.abs(actual - expected).max() > 0.01


def test_a_graph_with_another_beginning_is_left_unchanged():
    proto, before = normalising("Div"), normalising("Div")
    fold_normalisation(proto.graph)
    assert proto == before


def test_calibration_uses_all_of_few_photos_and_a_fixed_spread_of_many(tmp_path):
    few = [tmp_path / f"{index}.png" for index in range(CALIBRATION_IMAGES)]
    many = [tmp_path / f"{index}.png" for index in range(10 * CALIBRATION_IMAGES)]
    assert calibration_sample(few) == few
    sample = calibration_sample(many)
    assert sample == calibration_sample(many)
    assert len(set(sample)) == CALIBRATION_IMAGES
    tenths = [many.index(photo) // CALIBRATION_IMAGES for photo in sample]
    assert set(tenths) == set(range(10))


def test_a_photo_that_cannot_be_read_is_refused_by_name(exported, tmp_path):
    photo = noise_photo(tmp_path / "good.png", 0)
    (tmp_path / "broken.png").write_bytes(b"no photo")
    with pytest.raises(InvalidData, match=r"broken\.png cannot be read as an image"):
        int8_graph(
            exported("vt_resnet18").graph,
            PREPROCESSING["vt_resnet18"],
            [photo, tmp_path / "broken.png"],
        )


def test_a_file_that_is_not_a_graph_is_refused(tmp_path, photos):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(InvalidEntry, match="cannot load the graph"):
        int8_graph(tmp_path / "model.onnx", PREPROCESSING["vt_resnet18"], photos)
