"""Accuracy is correct on cases that can be counted by hand."""

import numpy as np
import pytest
from PIL import Image

from model_export.comparison.evaluation import (
    Agreement,
    classification_accuracy,
    data_sha256,
    segmentation_accuracy,
)
from model_export.errors import InvalidData
from model_export.preprocessing import Buckets, Preprocessing, Squash
from model_export.samples import IGNORED, Sample
from tests.model_export.files import samples_sha256

PREPROCESSING = Preprocessing(Squash(4, 4))


@pytest.fixture
def classified(tmp_path):
    """Accuracy of these rows of logits for images of these classes."""

    def accuracy(logits, truth, batch_size=32):
        samples = []
        for index, target in enumerate(truth):
            path = tmp_path / f"{index}.png"
            Image.new("RGB", (4, 4), (index, 0, 0)).save(path)
            samples.append(Sample(path, target))
        rows = np.array(logits, np.float32)

        def predict(images):
            return {"logits": rows[images[:, 0, 0, 0]]}

        return classification_accuracy(predict, samples, PREPROCESSING, batch_size)

    return accuracy


@pytest.fixture
def segmented(tmp_path):
    """Accuracy of pairs of predicted and true label maps."""

    def accuracy(pairs, classes, preprocessing=PREPROCESSING):
        samples = []
        for index, (_, truth) in enumerate(pairs):
            height, width = np.shape(truth)
            image, labels = tmp_path / f"{index}.png", tmp_path / f"{index}-labels.png"
            Image.new("RGB", (width, height), (index, 0, 0)).save(image)
            Image.fromarray(np.array(truth, np.uint8)).save(labels)
            samples.append(Sample(image, labels))

        def predict(images):
            numbers = images[:, 0, 0, 0]
            return {"labels": np.stack([np.array(pairs[n][0], np.uint8) for n in numbers])}

        return segmentation_accuracy(predict, samples, preprocessing, classes)

    return accuracy


def test_top1_is_the_share_of_images_whose_class_is_the_best(classified):
    logits = [[3, 1, 2], [3, 1, 2], [1, 5, 2], [0, 1, 2]]
    assert classified(logits, [0, 1, 1, 2])["top1"] == 0.75


def test_top5_is_the_share_of_images_whose_class_is_among_the_best_five(classified):
    logits = [[7, 6, 5, 4, 3, 2, 1]] * 4
    assert classified(logits, [0, 4, 5, 6]) == {"top1": 0.25, "top5": 0.5}


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_the_batch_size_does_not_matter(classified, batch_size):
    logits = [[3, 1, 2], [3, 1, 2], [1, 5, 2], [0, 1, 2], [9, 0, 0]]
    assert classified(logits, [0, 1, 1, 2, 0], batch_size)["top1"] == 0.8


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_constant_logits_score_zero(classified, value):
    accuracy = classified([[value] * 10] * 3, [0, 1, 2])
    assert accuracy == {"top1": 0.0, "top5": 0.0}


def test_a_tie_for_the_best_is_a_miss(classified):
    assert classified([[2, 2, 1], [2, 1, 1]], [0, 0])["top1"] == 0.5


def test_a_nan_score_is_a_miss(classified):
    assert classified([[5, np.nan, 1], [np.nan, 1, 0]], [0, 0])["top1"] == 0.0


def test_iou_is_counted_over_all_images_together(segmented):
    pairs = [
        ([[0, 0], [1, 1]], [[0, 0], [0, 1]]),
        ([[1, 1], [1, 1]], [[1, 1], [1, 0]]),
    ]
    accuracy = segmented(pairs, 2)
    # class 0: 2 hits, 2 missed; class 1: 4 hits, 2 too many
    assert accuracy["iou"] == [2 / 4, 4 / 6]
    assert accuracy["miou"] == pytest.approx((2 / 4 + 4 / 6) / 2)
    assert accuracy["pixel_accuracy"] == 6 / 8


def test_ignored_pixels_and_ids_outside_the_classes_do_not_count(segmented):
    pairs = [([[0, 1], [1, 1]], [[0, 1], [IGNORED, 7]])]
    accuracy = segmented(pairs, 2)
    assert accuracy == {"miou": 1.0, "pixel_accuracy": 1.0, "iou": [1.0, 1.0]}


def test_a_class_that_appears_nowhere_does_not_count_in_the_mean(segmented):
    accuracy = segmented([([[0, 2]], [[0, 2]])], 4)
    assert accuracy["iou"] == [1.0, None, 1.0, None]
    assert accuracy["miou"] == 1.0


def test_a_class_that_is_only_predicted_counts_as_0(segmented):
    accuracy = segmented([([[0, 1]], [[0, 0]])], 2)
    assert accuracy["iou"] == [0.5, 0.0]
    assert accuracy["miou"] == 0.25


def test_predictions_are_resized_to_the_label_map(segmented):
    truth = np.zeros((4, 6), np.uint8)
    truth[:, 3:] = 1
    assert segmented([([[0, 1], [0, 1]], truth)], 2)["miou"] == 1.0


def test_images_of_different_sizes_are_all_counted(segmented):
    wide, tall = np.zeros((32, 64)), np.ones((64, 32))
    accuracy = segmented(
        [(wide, wide), (tall, tall), (wide, wide)], 2, Preprocessing(Buckets.around(32))
    )
    assert accuracy["iou"] == [1.0, 1.0]


def test_label_maps_without_labelled_pixels_are_refused(segmented):
    with pytest.raises(InvalidData, match="contain no labelled pixels"):
        segmented([([[0, 1]], [[IGNORED, IGNORED]])], 2)


def replay(name, outputs):
    """A predictor that returns these outputs one call after another."""
    calls = iter(outputs)
    return lambda images: {name: np.array(next(calls))}


def test_classes_that_agree_are_counted_over_all_batches():
    predict = Agreement(
        replay("logits", [[[1, 9, 0], [5, 2, 1]], [[0, 0, 7]]]),
        replay("logits", [[[0, 1, 0], [2, 5, 1]], [[0, 1, 2]]]),
    )
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert predict(images)["logits"].tolist() == [[1, 9, 0], [5, 2, 1]]
    assert predict.share == 0.5
    predict(images[:1])
    assert predict.share == pytest.approx(2 / 3)


def test_pixels_that_agree_are_counted_by_pixels_not_by_images():
    predict = Agreement(
        replay("labels", [[[[0, 1], [1, 1]]], [[[2]]]]),
        replay("labels", [[[[0, 1], [1, 0]]], [[[0]]]]),
    )
    for _ in range(2):
        predict(np.zeros((1, 2, 2, 3), np.uint8))
    assert predict.share == 3 / 5


def test_the_hash_of_the_data_depends_only_on_images_targets_and_order(tmp_path):
    one, other, copy = (tmp_path / f"{name}.png" for name in ("one", "other", "copy"))
    for path, red in ((one, 1), (other, 2), (copy, 1)):
        Image.new("RGB", (2, 2), (red, 0, 0)).save(path)
    data = [Sample(one, 0), Sample(other, 1)]
    assert data_sha256(data) == samples_sha256((one, 0), (other, 1))
    assert data_sha256(data) == data_sha256([Sample(copy, 0), Sample(other, 1)])
    changes = [
        [Sample(other, 0), Sample(other, 1)],
        [Sample(one, 1), Sample(other, 1)],
        [Sample(other, 1), Sample(one, 0)],
        [Sample(one, 0)],
        [Sample(one, other), Sample(other, 1)],
    ]
    hashes = {data_sha256(each) for each in [data, *changes]}
    assert len(hashes) == 1 + len(changes)
    assert all(len(each) == 64 for each in hashes)


def test_the_hash_of_the_data_depends_on_the_contents_of_label_maps(tmp_path):
    image, labels = tmp_path / "image.png", tmp_path / "labels.png"
    Image.new("RGB", (2, 2)).save(image)
    hashes = []
    for label in (0, 1, 0):
        Image.new("L", (2, 2), label).save(labels)
        hashes.append(data_sha256([Sample(image, labels)]))
    assert hashes[0] == hashes[2] != hashes[1]
