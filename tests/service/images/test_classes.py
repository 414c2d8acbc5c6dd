"""The most likely classes of logits."""

import numpy as np
import pytest

from service.errors import InferenceFailed
from service.images.classes import top_classes

NAMES = ["sky", "road", "tree", "car"]


def test_scores_are_the_softmax_and_stay_finite_where_logits_are_large() -> None:
    scores = top_classes(np.array([1000.0, 999.0, -1000.0, 0.0], np.float32), NAMES, 4)
    assert [each["score"] for each in scores] == pytest.approx([0.731059, 0.268941, 0, 0])


def test_the_logits_are_divided_by_the_temperature_which_keeps_their_order() -> None:
    logits = np.array([2.0, 0.0], np.float32)
    (warm, cold) = (top_classes(logits, ["a", "b"], 2, t)[0]["score"] for t in (2.0, 0.5))
    assert warm == pytest.approx(1 / (1 + np.exp(-1)), abs=1e-6)
    assert cold == pytest.approx(1 / (1 + np.exp(-4)), abs=1e-6)


def test_classes_come_likeliest_first_and_equal_ones_by_index() -> None:
    scores = top_classes(np.array([0, 2, 2, 1], np.float32), NAMES, 3)
    assert [score["label"] for score in scores] == ["road", "tree", "car"]
    assert [score["index"] for score in scores] == [1, 2, 3]


def test_a_top_k_above_the_number_of_classes_returns_them_all() -> None:
    row = top_classes(np.zeros(4, np.float32), NAMES, 1000)
    assert [score["score"] for score in row] == [0.25] * 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_a_number_is_a_failed_inference(value: float) -> None:
    with pytest.raises(InferenceFailed):
        top_classes(np.array([value, 0, 0, 0], np.float32), NAMES, 1)
