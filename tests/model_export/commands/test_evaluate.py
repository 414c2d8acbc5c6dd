"""`evaluate` measures the accuracy of graphs and records it on request."""

import json
from pathlib import Path

import pytest

from model_export.commands.evaluate import in_label_order
from model_export.comparison import scaled_decoding
from model_export.samples import Sample
from tests.model_export.files import (
    COLORS,
    assert_certificate_is_listed,
    color_folders,
    flat_photo,
    json_of,
    samples_sha256,
)


def folders_sha256(root: Path) -> str:
    """The hash of class folders, which are numbered in alphabetical order."""
    numbered = enumerate(sorted(root.iterdir()))
    return samples_sha256(*((p, target) for target, f in numbered for p in sorted(f.iterdir())))


def test_the_accuracy_on_class_folders_is_printed(run, weights, tmp_path):
    """The untrained network answers green for every photo, which is right for 2 of 8."""
    for name, count in (("blue", 1), ("green", 2), ("red", 5)):
        for index in range(count):
            flat_photo(tmp_path / "data" / name / f"{index}.png", COLORS[name])
    status, out, _ = run("evaluate", "colors", tmp_path / "data", "--weights-dir", weights)
    assert status == 0
    assert json.loads(out) == {
        "fp32": {
            "data": "data",
            "sha256": folders_sha256(tmp_path / "data"),
            "images": 8,
            "top1": 0.25,
            "top5": 1.0,
        }
    }


def test_the_accuracy_of_every_precision_is_recorded(run, three_precisions, colors, monkeypatch):
    monkeypatch.setattr(scaled_decoding, "PIXELS", 40_000)
    arguments = ["evaluate", "colors", colors, "--weights-dir", three_precisions]
    status, out, err = run(*arguments, "--record", "--decoded-images", 3)
    assert (status, err) == (0, "")
    results, digest = json.loads(out), folders_sha256(colors)
    decoding = results.pop("scaled_decoding")
    certificate = json_of(three_precisions / "colors/1/certificate.json")
    assert certificate["scaled_decoding"] == decoding
    assert (decoding["data"], decoding["images"], decoding["limit"]) == (colors.name, 3, 0.995)
    assert list(results) == ["fp32", "int8", "fp16"]
    precisions = certificate["precisions"]
    for name, result in results.items():
        providers = precisions[name]["execution_providers"]
        assert providers["CPUExecutionProvider"]["accuracy"] == result
        assert result["sha256"] == digest
    assert 0 <= results["int8"]["agreement_with_fp32"] <= 1
    assert_certificate_is_listed(three_precisions)


def test_a_graph_that_is_not_the_certified_file_is_refused(run, three_precisions, colors):
    path = three_precisions / "colors/1/model.fp16.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    status, _, err = run("evaluate", "colors", colors, "--weights-dir", three_precisions)
    assert status == 2
    assert "model.fp16.onnx is missing or differs from the certified file" in err


RED, GREEN = Path("red/0.png"), Path("green/0.png")


@pytest.mark.parametrize(
    ("labels", "targets"),
    [(["red", "green"], [0, 1]), (["green", "red"], [1, 0]), (["n01", "n02"], [1, 0])],
    ids=["other order", "same order", "other names"],
)
def test_folders_count_by_name_if_they_are_named_like_the_labels(labels, targets):
    """The order of the labels is that of the logits; the order of folders is alphabetical."""
    samples = [Sample(RED, 1), Sample(GREEN, 0)]
    ordered = in_label_order(samples, ["green", "red"], labels)
    assert ordered == [Sample(RED, targets[0]), Sample(GREEN, targets[1])]


def test_label_maps_are_not_reordered():
    samples = [Sample(RED, Path("red/0-labels.png"))]
    assert in_label_order(samples, [], ["red"]) == samples


def test_data_with_another_number_of_classes_is_refused(run, weights, colors, tmp_path):
    color_folders(tmp_path / "data", images=1)
    color_folders(tmp_path / "data", images=1, prefix="dark ")
    status, _, err = run("evaluate", "colors", tmp_path / "data", "--weights-dir", weights)
    assert status == 2
    assert "has 6 class folders, but colors has 3 classes" in err
