"""Polygons of label maps: valid, and drawn again they are the same map."""

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from service.errors import PayloadTooLarge
from service.images import polygons as module
from service.images.polygons import class_polygons

NAMES = ["sky", "road", "tree", "car"]

label_maps = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 16), st.integers(1, 16)), elements=st.integers(0, 3)
)


def traced(labels: np.ndarray, **options: object) -> list[dict]:
    size = (labels.shape[1], labels.shape[0])
    return class_polygons(labels, NAMES, size, range(4), **{"tolerance": 0, **options})


def as_shapes(classes: list[dict]) -> list[tuple[int, shapely.Polygon]]:
    return [
        (each["index"], shapely.Polygon(outer, holes))
        for each in classes
        for outer, *holes in each["polygons"]
    ]


def drawn(classes: list[dict], width: int, height: int) -> np.ndarray:
    """The class whose polygon contains the centre of each pixel; 255 without one."""
    y, x = np.mgrid[:height, :width] + 0.5
    labels = np.full((height, width), 255, np.uint8)
    for index, shape in as_shapes(classes):
        labels[shapely.contains_xy(shape, x, y)] = index
    return labels


@given(label_maps)
@settings(max_examples=150, deadline=None)
def test_polygons_are_valid_and_cover_the_map_once(labels: np.ndarray) -> None:
    classes = traced(labels)
    shapes = [shape for _, shape in as_shapes(classes)]
    assert all(shape.is_valid for shape in shapes)
    assert sum(shape.area for shape in shapes) == labels.size
    assert np.array_equal(drawn(classes, *labels.shape[::-1]), labels)
    for each in classes:
        assert each["label"] == NAMES[each["index"]]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
@given(label_maps)
@settings(max_examples=50, deadline=None)
def test_coco_rasterizes_the_polygons_to_the_same_mask(labels: np.ndarray) -> None:
    height, width = labels.shape
    for each in traced(labels):
        mask = np.zeros((height, width), np.uint8)
        for rings in each["polygons"]:
            flat = [[value for point in ring for value in point] for ring in rings]
            outer, *holes = coco.decode(coco.frPyObjects(flat, height, width)).transpose(2, 0, 1)
            mask += outer - sum(holes, np.zeros_like(mask))
        assert np.array_equal(mask, labels == each["index"])


@given(label_maps, st.floats(0.5, 20))
@settings(max_examples=100, deadline=None)
def test_simplified_polygons_stay_valid_and_disjoint(labels: np.ndarray, tolerance: float) -> None:
    shapes = np.array([shape for _, shape in as_shapes(traced(labels, tolerance=tolerance))])
    assert shapely.is_valid(shapes).all()
    assert shapely.coverage_is_valid(shapes)
    assert shapely.area(shapes).sum() == pytest.approx(labels.size)


def test_an_island_in_a_lake_on_an_island_is_three_polygons() -> None:
    labels = np.zeros((9, 9), np.uint8)
    labels[1:8, 1:8], labels[2:7, 2:7], labels[4, 4] = 1, 0, 1
    sky, road = traced(labels)
    assert [len(rings) for rings in sky["polygons"]] == [2, 2]
    assert sorted(len(rings) for rings in road["polygons"]) == [1, 2]
    assert [[4, 4], [4, 5], [5, 4], [5, 5]] in [sorted(rings[0]) for rings in road["polygons"]]


def test_no_point_of_a_ring_is_repeated() -> None:
    ((ring,),) = traced(np.ones((3, 5), np.uint8))[0]["polygons"]
    assert sorted(ring) == [[0, 0], [0, 3], [5, 0], [5, 3]]


def test_polygons_have_the_size_of_the_photo_or_of_1() -> None:
    labels = np.array([[0, 1]], np.uint8)
    _, road = class_polygons(labels, NAMES, (30, 10), range(4), tolerance=1)
    assert sorted(road["polygons"][0][0]) == [[15, 0], [15, 10], [30, 0], [30, 10]]
    (road,) = class_polygons(labels, NAMES, (30, 10), {1}, tolerance=1, normalized=True)
    assert sorted(road["polygons"][0][0]) == [[0.5, 0], [0.5, 1], [1, 0], [1, 1]]


def test_tolerance_is_in_pixels_of_the_photo() -> None:
    stairs = np.tri(8, dtype=np.uint8)
    small = class_polygons(stairs, NAMES, (8, 8), {1}, tolerance=1)
    large = class_polygons(stairs, NAMES, (80, 80), {1}, tolerance=1)
    points = [len(each[0]["polygons"][0][0]) for each in (small, large)]
    assert points[0] < points[1] == len(traced(stairs)[1]["polygons"][0][0])


@pytest.mark.parametrize("name", ["MAX_CORNERS", "MAX_JUNCTIONS"])
def test_a_map_that_is_too_fragmented_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    checkerboard = (np.indices((20, 20)).sum(axis=0) % 2).astype(np.uint8)
    assert len(traced(checkerboard)[0]["polygons"]) == 200
    monkeypatch.setattr(module, name, 300)
    with pytest.raises(PayloadTooLarge, match="mask=rle"):
        traced(checkerboard)


def test_a_large_map_is_searched_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.random.default_rng(0).integers(0, 4, (30, 20), np.uint8)
    whole = traced(labels)
    monkeypatch.setattr(module, "STRIP_PIXELS", 70)
    assert traced(labels) == whole
