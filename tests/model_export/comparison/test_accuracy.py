"""Accuracy is reported by precision, with the hash of the data and the agreement with fp32."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_export.comparison import accuracy as module
from model_export.comparison.accuracy import accuracy
from model_export.entry.precisions import PRECISIONS
from model_export.entry.version import Version
from model_export.execution_providers import CPU
from model_export.models.registry import dimensions_of
from model_export.preprocessing import Preprocessing, Squash
from model_export.samples import Sample
from tests.model_export.files import samples_sha256

LABELS = ["blue", "green", "red"]
FILES = {each.graph: name for name, each in PRECISIONS.items()}


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Accuracies if the graph of each precision returns these outputs for image n."""

    def measured(model, samples, outputs, names=("fp32", "int8", "fp16")):
        def predictor(graph: Path, provider: str):
            assert provider == CPU
            own = outputs[FILES[graph.name]]
            name = "logits" if model == "resnet18" else "labels"
            return lambda images: {name: np.array([own[n] for n in images[:, 0, 0, 0]])}

        monkeypatch.setattr(module, "graph_predictor", predictor)
        contract = {
            "labels": LABELS,
            "dimensions": dimensions_of(model, classes=3).as_dict(),
            "preprocessing": Preprocessing(Squash(2, 2)).as_dict(),
        }
        version = Version(tmp_path / "1", "colors", "1", contract)
        return accuracy(version, names, samples, data="colors/val", provider=CPU)

    return measured


def photo(path: Path, number: int) -> Path:
    Image.new("RGB", (2, 2), (number, 0, 0)).save(path)
    return path


@pytest.fixture
def classified(tmp_path) -> list[Sample]:
    return [Sample(photo(tmp_path / f"{n}.png", n), n % 3) for n in range(4)]


LOGITS = np.float32([[9, 0, 0], [0, 9, 0], [0, 0, 9], [0, 9, 0]])  # the last one is wrong


def test_a_classifiers_precisions_are_compared_with_float32(measured, classified):
    int8 = LOGITS[[0, 1, 1, 0]]  # the third got worse, the last one better
    results = measured("resnet18", classified, {"fp32": LOGITS, "int8": int8, "fp16": LOGITS / 3})
    digest = samples_sha256(*((each.image, each.target) for each in classified))
    facts = {"data": "colors/val", "sha256": digest, "images": 4, "top5": 1.0}
    assert results == {
        "fp32": {**facts, "top1": 0.75},
        "int8": {**facts, "top1": 0.75, "agreement_with_fp32": 0.5},
        "fp16": {**facts, "top1": 0.75, "agreement_with_fp32": 1.0},
    }


def test_one_precision_may_be_measured_alone(measured, classified):
    outputs = {"fp32": LOGITS, "int8": LOGITS}
    assert list(measured("resnet18", classified, outputs, ["int8"])) == ["int8"]


def test_a_segmenters_precisions_agree_by_pixels_and_have_an_iou_by_label(measured, tmp_path):
    truth = np.uint8([[0, 0], [1, 1]])
    Image.fromarray(truth).save(tmp_path / "labels.png")
    samples = [Sample(photo(tmp_path / "0.png", 0), tmp_path / "labels.png")]
    int8 = np.uint8([[0, 0], [1, 0]])
    results = measured("fpn_resnet18", samples, {"fp32": [truth], "int8": [int8], "fp16": [truth]})
    assert results["fp32"]["iou"] == {"blue": 1.0, "green": 1.0, "red": None}
    assert results["int8"]["iou"] == {"blue": 2 / 3, "green": 0.5, "red": None}
    assert results["int8"]["miou"] == pytest.approx((2 / 3 + 0.5) / 2)
    assert results["int8"]["agreement_with_fp32"] == 0.75
    assert results["fp16"]["agreement_with_fp32"] == 1.0
    assert "agreement_with_fp32" not in results["fp32"]
    digest = samples_sha256((tmp_path / "0.png", tmp_path / "labels.png"))
    assert {result["sha256"] for result in results.values()} == {digest}
