"""The agreement of two predictions."""

import numpy as np
import pytest

from service.schema.tasks import TASKS
from service.schema.vocabulary import Task

CLASSIFICATION, SEGMENTATION = TASKS[Task.CLASSIFICATION], TASKS[Task.SEGMENTATION]


def test_every_task_has_a_row() -> None:
    assert set(TASKS) == set(Task)


@pytest.mark.parametrize(("other", "agreement"), [([0, 9, 3], 1.0), ([5, 4, 3], 0.0)])
def test_classifications_agree_if_their_best_classes_are_equal(
    other: list[float], agreement: float
) -> None:
    pair = (np.array([1, 2, 1.5], np.float32), np.array(other, np.float32))
    assert CLASSIFICATION.agreement([pair]) == agreement
    assert CLASSIFICATION.agreement([pair, (pair[0], pair[0])]) == (agreement + 1) / 2


def test_segmentations_agree_in_the_share_of_equal_pixels_of_all_images() -> None:
    four, two = np.array([[0, 1], [2, 3]], np.uint8), np.array([[1, 1]], np.uint8)
    pairs = [(four, np.array([[0, 1], [2, 0]], np.uint8)), (two, np.zeros((1, 2), np.uint8))]
    assert SEGMENTATION.agreement(pairs) == 0.5


def test_maps_of_different_shapes_do_not_agree() -> None:
    assert SEGMENTATION.agreement([(np.zeros((2, 2)), np.zeros((1, 2)))]) == 0.0
