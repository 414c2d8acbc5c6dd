import numpy as np
import pytest

from service.engine.summary import summarize
from service.images.photo import PreparedImage
from service.schema.vocabulary import Task

LABELS = ["red", "green", "blue"]


class Contract:
    labels = LABELS

    def __init__(self, task: Task) -> None:
        self.task = task
        self.prediction = "logits" if task is Task.CLASSIFICATION else "labels"


CLASSIFIER, SEGMENTER = Contract(Task.CLASSIFICATION), Contract(Task.SEGMENTATION)
PHOTO = PreparedImage(np.zeros((8, 8, 3), np.uint8), 640, 480)


def test_a_classified_image_counts_to_its_likeliest_class_with_its_softmax() -> None:
    logits = np.log(np.array([0.2, 0.7, 0.1], np.float32))
    (prediction,) = summarize(CLASSIFIER, [PHOTO], [{"logits": logits}])
    assert prediction == (640 * 480, {"green": 1.0}, pytest.approx(0.7))


def test_the_softmax_of_large_logits_does_not_overflow() -> None:
    logits = np.array([-60000.0, 60000.0, 0.0], np.float16)
    (prediction,) = summarize(CLASSIFIER, [PHOTO], [{"logits": logits}])
    assert prediction == (640 * 480, {"green": 1.0}, 1.0)


def test_the_confidence_follows_the_temperature() -> None:
    logits = np.log(np.array([1.0, 16.0, 1e-9], np.float32))
    (prediction,) = summarize(CLASSIFIER, [PHOTO], [{"logits": logits}], 2.0)
    assert prediction == (640 * 480, {"green": 1.0}, pytest.approx(4 / 5, abs=1e-4))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_numbers_count_to_no_class(value: float) -> None:
    (prediction,) = summarize(CLASSIFIER, [PHOTO], [{"logits": np.array([0, value, 1])}])
    assert prediction == (640 * 480, {}, None)


def test_a_segmented_image_counts_to_each_class_by_its_share_of_a_grid() -> None:
    labels = np.zeros((64, 64), np.uint8)
    labels[:, 48:] = 2
    (prediction,) = summarize(SEGMENTER, [PHOTO], [{"labels": labels}])
    assert prediction == (640 * 480, {"red": 0.75, "blue": 0.25}, None)


def test_a_class_without_a_label_counts_nowhere() -> None:
    (prediction,) = summarize(SEGMENTER, [PHOTO], [{"labels": np.full((64, 64), 9, np.uint8)}])
    assert prediction == (640 * 480, {}, None)


def test_an_answer_without_the_prediction_has_no_classes() -> None:
    (prediction,) = summarize(CLASSIFIER, [PHOTO], [{"tokens": np.zeros(3, np.float32)}])
    assert prediction == (640 * 480, {}, None)
