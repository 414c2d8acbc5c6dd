"""`calibrate` records a temperature and its effect, measured on other photos."""

import json
from pathlib import Path

import numpy as np
import pytest

from model_export.commands import calibrate
from tests.model_export.files import assert_certificate_is_listed, color_folders, json_of


@pytest.fixture
def overconfident(monkeypatch) -> None:
    """Logits of a model that is right for three of four photos, and always very sure."""

    def logits_and_truth(predict, samples, preprocessing):
        truth = np.array([sample.target for sample in samples])
        answers = np.where(np.arange(len(truth)) % 4 == 0, (truth + 1) % 3, truth)
        return 8 * np.eye(3)[answers], truth

    monkeypatch.setattr(calibrate, "logits_and_truth", logits_and_truth)


@pytest.fixture(scope="module")
def class_folders(tmp_path_factory) -> Path:
    return color_folders(tmp_path_factory.mktemp("calibration"), images=8)


@pytest.mark.usefixtures("overconfident")
def test_the_temperature_is_recorded_with_the_error_before_and_after(run, weights, class_folders):
    arguments = ["calibrate", "colors", class_folders, "--weights-dir", weights, "--hold-out", 0.5]
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    confidence = json.loads(out)
    assert confidence["fitted_on"]["images"] == confidence["measured_on"]["images"] == 12
    assert confidence["fitted_on"]["sha256"] != confidence["measured_on"]["sha256"]
    error = confidence["expected_calibration_error"]
    assert error["before"] == pytest.approx(0.25, abs=0.01)
    assert error["after"] < 0.01
    contract = json_of(weights / "colors/config.json")
    assert contract["versions"]["1"]["temperature"] == confidence["temperature"] > 2
    assert json_of(weights / "colors/1/certificate.json")["confidence"] == confidence
    assert_certificate_is_listed(weights)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "must be measured on other photos than it was fitted on"),
        (["--hold-out", 0.01], "leaves no photos; choose a larger share"),
        (["--hold-out", 0.9], "must be between 0 and 0.5"),
    ],
)
def test_photos_that_cannot_be_divided_are_refused(
    run, weights, class_folders, arguments, sentence
):
    before = (weights / "colors/config.json").read_bytes()
    status, _, err = run("calibrate", "colors", class_folders, "--weights-dir", weights, *arguments)
    assert status == 2
    assert sentence in err
    assert (weights / "colors/config.json").read_bytes() == before


def test_a_segmenter_has_no_scores_to_calibrate(run, exported_segmenter, class_folders):
    job = exported_segmenter.job
    arguments = [
        "calibrate",
        job.name,
        class_folders,
        "--weights-dir",
        job.weights,
        "--hold-out",
        0.5,
    ]
    status, _, err = run(*arguments)
    assert status == 2
    assert "is no classifier: its answers have no scores" in err
