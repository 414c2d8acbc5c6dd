"""Areas and masks of label maps."""

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import InferenceFailed
from service.images.masks import (
    class_areas,
    grey_png,
    mask_png,
    only_classes,
    scale_labels,
)

NAMES = ["sky", "road", "tree", "car"]
PALETTE = [(128, 128, 128), (128, 64, 128), (128, 128, 0), (64, 0, 128)]


def test_labels_are_scaled_by_the_nearest_neighbour() -> None:
    labels = np.array([[0, 1], [2, 3]], np.uint8)
    expected = [[0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 1], [2, 2, 2, 3, 3, 3], [2, 2, 2, 3, 3, 3]]
    assert scale_labels(labels, 6, 4).tolist() == expected


def test_areas_list_only_the_classes_present_the_largest_first() -> None:
    assert class_areas(np.array([[3, 3, 1, 3]], np.uint8), NAMES) == [
        {"label": "car", "index": 3, "pixels": 3, "fraction": 0.75},
        {"label": "road", "index": 1, "pixels": 1, "fraction": 0.25},
    ]


def test_equal_areas_come_by_index() -> None:
    areas = class_areas(np.array([[3, 1, 2]], np.uint8), NAMES)
    assert [area["index"] for area in areas] == [1, 2, 3]


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


def test_the_grey_mask_has_the_classes_as_its_pixels() -> None:
    labels = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
    data = grey_png(labels)
    assert (data[24], data[25]) == (8, 0)  # bit depth, colour type
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data)).convert("L")), labels)


def test_classes_that_are_not_wanted_become_255() -> None:
    labels = np.array([[0, 1, 2], [3, 3, 0]], np.uint8)
    assert only_classes(labels, {1, 3}).tolist() == [[255, 1, 255], [3, 3, 255]]
