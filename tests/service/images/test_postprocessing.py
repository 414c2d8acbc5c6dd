import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from pycocotools import mask as coco

from service.errors import InferenceFailed
from service.images.classes import top_classes
from service.images.masks import class_areas, mask_png, overlay_png, scale_labels
from service.images.run_lengths import run_lengths
from tests.service.photos import noise, solid

NAMES = ["sky", "road", "tree", "car"]
PALETTE = [(128, 128, 128), (128, 64, 128), (128, 128, 0), (64, 0, 128)]

label_maps = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 3)
)


def test_scores_are_the_softmax_and_stay_finite_where_logits_are_large() -> None:
    scores = top_classes(np.array([1000.0, 999.0, -1000.0, 0.0], np.float32), NAMES, 4)
    assert [each.score for each in scores] == pytest.approx([0.731059, 0.268941, 0, 0])


def test_classes_come_likeliest_first_and_equal_ones_by_index() -> None:
    scores = top_classes(np.array([0, 2, 2, 1], np.float32), NAMES, 3)
    assert [score.label for score in scores] == ["road", "tree", "car"]
    assert [score.index for score in scores] == [1, 2, 3]


def test_more_classes_than_there_are_means_all() -> None:
    row = top_classes(np.zeros(4, np.float32), NAMES, 1000)
    assert [score.score for score in row] == [0.25] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_a_number_is_a_failed_inference(value: float) -> None:
    with pytest.raises(InferenceFailed):
        top_classes(np.array([value, 0, 0, 0], np.float32), NAMES, 1)


def test_labels_are_scaled_by_the_nearest_neighbour() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    expected = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [2, 2, 2, 3, 3, 3]]
    assert scale_labels(labels, 6, 4).tolist() == expected


def test_areas_hold_only_what_is_there_the_largest_first() -> None:
    labels = np.array([[3, 3, 1, 3]], np.uint8)
    areas = [(area.label, area.index, area.pixels, area.fraction) for area in _areas(labels)]
    assert areas == [("car", 3, 3, 0.75), ("road", 1, 1, 0.25)]


def _areas(labels: np.ndarray) -> list:
    return class_areas(labels, NAMES)


def test_a_class_without_a_label_is_a_failed_inference() -> None:
    with pytest.raises(InferenceFailed):
        class_areas(np.array([[4]], np.uint8), NAMES)


def test_the_mask_is_an_indexed_png_of_eight_bits_with_the_palette() -> None:
    labels = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
    data = mask_png(labels, PALETTE)
    image = Image.open(io.BytesIO(data))
    assert (data[24], data[25]) == (8, 3)  # bit depth, colour type
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert image.getpalette()[:12] == [value for color in PALETTE for value in color]


def test_the_overlay_blends_the_colours_into_the_photo() -> None:
    data = overlay_png(solid((0, 0, 0), (2, 1)), np.array([[0, 1]], np.uint8), PALETTE)
    image = Image.open(io.BytesIO(data))
    assert image.mode == "RGB"
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [(64, 64, 64), (64, 32, 64)]


def test_the_overlay_is_blended_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, labels = noise(30, 50), np.arange(1500, dtype=np.uint8).reshape(50, 30) % 4
    whole, blend, sizes = overlay_png(photo, labels, PALETTE), Image.blend, []

    def recorded(one: Image.Image, other: Image.Image, alpha: float) -> Image.Image:
        sizes.append(one.size)
        return blend(one, other, alpha)

    monkeypatch.setattr(Image, "blend", recorded)
    monkeypatch.setattr("service.images.masks.BLEND_PIXELS", 215)
    assert overlay_png(photo, labels, PALETTE) == whole
    assert sizes == [(30, 7)] * 7 + [(30, 1)]


@given(label_maps)
@settings(max_examples=150, deadline=None)
def test_run_lengths_are_those_of_coco(labels: np.ndarray) -> None:
    classes = run_lengths(labels, NAMES)
    assert [each.index for each in classes] == sorted(np.unique(labels).tolist())
    for each in classes:
        expected = coco.encode(np.asfortranarray(labels == each.index))
        assert list(each.size) == expected["size"]
        assert each.counts == expected["counts"].decode()
        assert each.label == NAMES[each.index]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
@pytest.mark.parametrize("shape", [(1, 1), (1000, 1200)])
def test_long_runs_are_those_of_coco(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 3 :, shape[1] // 2 :] = 2
    for each in run_lengths(labels, NAMES):
        encoded = {"size": list(each.size), "counts": each.counts.encode()}
        assert np.array_equal(coco.decode(encoded), labels == each.index)
