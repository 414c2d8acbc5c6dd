"""Areas, masks and overlays of label maps."""

import io

import numpy as np
import pytest
from PIL import Image

from service.errors import InferenceFailed
from service.images import masks
from service.images.masks import class_areas, mask_png, overlay_png, scale_labels
from tests.service.photos import noise, solid

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
    monkeypatch.setattr(masks, "BLEND_PIXELS", 215)
    assert overlay_png(photo, labels, PALETTE) == whole
    assert sizes == [(30, 7)] * 7 + [(30, 1)]
