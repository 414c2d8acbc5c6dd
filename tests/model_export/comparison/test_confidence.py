"""Temperatures and calibration errors of logits whose true probabilities are known."""

import numpy as np
import pytest

from model_export.comparison.confidence import (
    expected_calibration_error,
    fitted_temperature,
    logits_and_truth,
    probabilities,
)
from model_export.errors import InvalidData
from model_export.preprocessing import Preprocessing, Squash
from model_export.samples import image_folder
from tests.model_export.files import color_folders


def drawn(factor: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are `factor` times those of the distribution that the classes are drawn from."""
    chance = np.random.default_rng(0)
    logits = 2 * chance.standard_normal((count, 4))
    shares = probabilities(logits, 1.0).cumsum(axis=1)
    return factor * logits, (chance.random((count, 1)) > shares).sum(axis=1)


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_the_factor_of_the_logits(factor):
    logits, truth = drawn(factor)
    assert fitted_temperature(logits, truth) == pytest.approx(factor, rel=0.05)


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_the_temperature_lowers_the_calibration_error(factor):
    logits, truth = drawn(factor)
    before, after = (expected_calibration_error(logits, truth, t) for t in (1.0, factor))
    assert before > 0.1
    assert after < 0.03


def test_the_calibration_error_is_the_weighted_difference_of_confidence_and_accuracy():
    """Two of four right at a confidence of 0.9, one of one at 0.6."""
    shares = np.array([[0.9, 0.1]] * 4 + [[0.4, 0.6]])
    truth = np.array([0, 0, 1, 1, 1])
    expected = 4 / 5 * (0.9 - 0.5) + 1 / 5 * (1 - 0.6)
    assert expected_calibration_error(np.log(shares), truth, 1.0) == pytest.approx(expected)


@pytest.mark.parametrize("answer", [0, 1], ids=["all right", "all wrong"])
def test_photos_that_say_nothing_about_the_confidence_are_refused(answer):
    logits = np.tile([5.0, 0.0], (10, 1))
    with pytest.raises(InvalidData, match="no temperature fits these photos"):
        fitted_temperature(logits, np.full(10, answer))


def test_logits_and_classes_are_in_the_order_of_the_samples(tmp_path):
    """The mean colour of each photo, as logits, is that of its class."""
    samples, classes = image_folder(color_folders(tmp_path, images=14))  # 42: more than a batch
    logits, truth = logits_and_truth(
        lambda images: {"logits": images.mean((1, 2))}, samples, Preprocessing(Squash(32, 32))
    )
    assert truth.tolist() == [sample.target for sample in samples]
    channels = {"red": 0, "green": 1, "blue": 2}
    assert logits.argmax(1).tolist() == [channels[classes[index]] for index in truth]
