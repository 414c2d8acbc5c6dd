"""Run lengths of label maps, compared with those of COCO's own tools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

from service.images.run_lengths import run_lengths

NAMES = ["sky", "road", "tree", "car"]

label_maps = arrays.arrays(
    np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 3)
)


@given(label_maps)
@settings(max_examples=150, deadline=None)
def test_run_lengths_are_those_of_coco(labels: np.ndarray) -> None:
    classes = run_lengths(labels, NAMES, range(4))
    assert [each["index"] for each in classes] == sorted(np.unique(labels).tolist())
    for each in classes:
        expected = coco.encode(np.asfortranarray(labels == each["index"]))
        assert list(each["size"]) == expected["size"]
        assert each["counts"] == expected["counts"].decode()
        assert each["label"] == NAMES[each["index"]]


def test_only_the_wanted_classes_are_encoded() -> None:
    labels = np.array([[0, 1, 2, 2]], np.uint8)
    assert [each["label"] for each in run_lengths(labels, NAMES, {2, 3})] == ["tree"]


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
@pytest.mark.parametrize("shape", [(1, 1), (1000, 1200)])
def test_long_runs_are_those_of_coco(shape: tuple[int, int]) -> None:
    labels = np.zeros(shape, np.uint8)
    labels[shape[0] // 3 :, shape[1] // 2 :] = 2
    for each in run_lengths(labels, NAMES, range(4)):
        encoded = {"size": list(each["size"]), "counts": each["counts"].encode()}
        assert np.array_equal(coco.decode(encoded), labels == each["index"])
