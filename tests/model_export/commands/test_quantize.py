"""`quantize` adds measured, certified graphs to a version, or changes nothing."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from model_export.__main__ import main
from model_export.commands import export as convert
from model_export.comparison.evaluation import data_sha256
from model_export.comparison.predictors import graph_predictor
from model_export.entry import artifact
from model_export.entry.precisions import PRECISIONS, Tolerance
from model_export.training.data import Sample
from tests.model_export.files import json_of, noise_photo, sha256, snapshot

NEW_FILES = {"model.int8.onnx", "golden.int8.npz", "model.fp16.onnx"}


def certificate_of(weights: Path) -> dict:
    return json_of(weights / "colors/1/certificate.json")


def test_a_version_gains_two_graphs_and_what_int8_made_of_the_golden_inputs(
    classifier_weights, quantized_weights
):
    before, after = snapshot(classifier_weights), snapshot(quantized_weights)
    assert after.keys() - before.keys() == {f"colors/1/{name}" for name in NEW_FILES}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"colors/config.json", "colors/1/certificate.json"}
    assert [path.name for path in quantized_weights.iterdir()] == ["colors"]


def test_the_hashes_of_contract_and_certificate_are_true(classifier_weights, quantized_weights):
    folder = quantized_weights / "colors/1"
    contract = json_of(quantized_weights / "colors/config.json")
    assert contract["versions"]["1"]["certificate_sha256"] == sha256(folder / "certificate.json")
    files = certificate_of(quantized_weights)["files"]
    assert files.keys() == certificate_of(classifier_weights)["files"].keys() | NEW_FILES
    for name, facts in files.items():
        path = folder / name
        assert facts == {"sha256": sha256(path), "bytes": path.stat().st_size}
    artifact.open_version(quantized_weights, "colors").check_files()


def test_nothing_else_is_changed_in_contract_and_certificate(classifier_weights, quantized_weights):
    before, after = certificate_of(classifier_weights), certificate_of(quantized_weights)
    assert list(after["precisions"]) == ["fp32", "int8", "fp16"]
    for certificate in (before, after):
        del certificate["files"]
    after["precisions"] = {"fp32": after["precisions"]["fp32"]}
    assert after == before
    contracts = [json_of(w / "colors/config.json") for w in (classifier_weights, quantized_weights)]
    for contract in contracts:
        del contract["versions"]["1"]["certificate_sha256"]
    assert contracts[0] == contracts[1]


@pytest.mark.parametrize(
    ("precision", "facts"),
    [
        (
            "int8",
            {
                "file": "model.int8.onnx",
                "golden_outputs": "golden.int8.npz",
                "limits": {"accuracy_loss": 0.005},
                "external_data": [],
            },
        ),
        (
            "fp16",
            {
                "file": "model.fp16.onnx",
                "golden_outputs": "golden.npz",
                "limits": {"agreement_with_fp32": 0.995},
                "external_data": ["checkpoint.safetensors"],
            },
        ),
    ],
)
def test_the_certificate_says_what_a_graph_is_and_what_it_must_hold(
    quantized_weights, precision, facts
):
    section = certificate_of(quantized_weights)["precisions"][precision]
    assert facts.items() <= section.items()
    assert section["self_test"] == dataclasses.asdict(PRECISIONS[precision].self_test)
    assert list(section["execution_providers"]) == ["CPUExecutionProvider"]
    measured = section["execution_providers"]["CPUExecutionProvider"]
    assert measured.keys() == {"parity", "batch_invariance", "latency"}
    assert measured["parity"]["tolerance"] == dataclasses.asdict(PRECISIONS[precision].parity)
    assert measured["parity"]["real_images"] == 3
    assert measured["batch_invariance"]["batches"] == [1, 8]
    assert measured["latency"]["size"] == [64, 64]


def test_the_certificate_says_what_int8_was_calibrated_on(quantized_weights, photos):
    precisions = certificate_of(quantized_weights)["precisions"]
    sha256_of_photos = data_sha256([Sample(photo, 0) for photo in photos])
    assert precisions["int8"]["calibration"] == {"images": 3, "sha256": sha256_of_photos}
    assert "calibration" not in precisions["fp16"]


def test_the_golden_outputs_of_int8_are_its_own_answers(quantized_weights):
    folder = quantized_weights / "colors/1"
    golden, own = np.load(folder / "golden.npz"), np.load(folder / "golden.int8.npz")
    assert set(own) == {f"logits_{index}" for index in range(3)}
    predict = graph_predictor(folder / "model.int8.onnx")
    for index in range(3):
        logits = predict(golden[f"image_{index}"][None])["logits"][0]
        np.testing.assert_allclose(own[f"logits_{index}"], logits, rtol=1e-5)
        assert not np.array_equal(own[f"logits_{index}"], golden[f"logits_{index}"])


def test_from_its_own_checkpoint_an_entry_is_made_again_to_the_bit(
    run, quantized_weights, labels_file, photos, tmp_path
):
    entry, weights = quantized_weights / "colors", tmp_path / "weights"
    export = ["--model", "vt_resnet18", "--name", "colors", "--labels", labels_file]
    export += ["--input-size", 64, 64, "--max-batch-size", 8, "--examples", entry / "examples"]
    run("export", entry / "1/checkpoint.safetensors", *export, "--weights-dir", weights)
    run("quantize", "colors", photos[0].parent, "--weights-dir", weights)
    before, after = snapshot(entry / "1"), snapshot(weights / "colors/1")
    assert after.keys() == before.keys()
    different = {name for name in before if after[name] != before[name]}
    assert different <= {"certificate.json"}  # it holds the latencies
    assert certificate_of(weights)["files"] == certificate_of(quantized_weights)["files"]


def test_quantize_says_what_it_compared_and_what_it_wrote_and_no_more(weights, photos, capfd):
    arguments = [str(photos[0].parent), "--weights-dir", str(weights)]
    status = main(["quantize", "colors", *arguments])
    out, err = capfd.readouterr()  # the libraries write past Python
    assert (status, err) == (0, "")
    for precision in ("int8", "fp16"):
        assert f"torch against {precision} (CPUExecutionProvider): 3 photos" in out
        assert f"wrote {weights}/colors/1/model.{precision}.onnx" in out


def test_one_precision_may_be_made_alone(run, weights, photos):
    arguments = ["quantize", "colors", photos[0].parent, "--weights-dir", weights]
    status, out, _ = run(*arguments, "--precision", "int8")
    assert status == 0
    assert "fp16" not in out
    assert list(certificate_of(weights)["precisions"]) == ["fp32", "int8"]
    assert not (weights / "colors/1/model.fp16.onnx").exists()
    artifact.open_version(weights, "colors").check_files()


def test_doing_it_again_replaces_graph_and_figures_and_drops_the_accuracy(
    run, three_precisions, colors, tmp_path
):
    """An accuracy is a graph's: the new one has to be measured."""
    weights = three_precisions
    run("evaluate", "colors", colors, "--weights-dir", weights, "--record")
    before, files = certificate_of(weights), snapshot(weights / "colors/1")
    noise_photo(tmp_path / "deeper/below/other.png", 77)
    arguments = ["quantize", "colors", tmp_path / "deeper", "--precision", "int8"]
    status, _, _ = run(*arguments, "--weights-dir", weights)
    assert status == 0
    after = certificate_of(weights)
    assert snapshot(weights / "colors/1").keys() == files.keys()
    assert after["files"]["model.int8.onnx"] != before["files"]["model.int8.onnx"]
    int8 = after["precisions"].pop("int8")
    assert int8["calibration"]["images"] == 1
    assert "accuracy" not in int8["execution_providers"]["CPUExecutionProvider"]
    assert before["precisions"].items() >= after["precisions"].items()
    for precision in ("fp32", "fp16"):
        providers = after["precisions"][precision]["execution_providers"]
        assert providers["CPUExecutionProvider"]["accuracy"]["images"] == 12
    artifact.open_version(weights, "colors").check_files()


@pytest.fixture
def refused(run, photos):
    """Run `quantize` that must fail and leave every byte where it was; returns its complaint."""

    def refused(weights: Path, folder: Path = photos[0].parent, *, status: int = 2) -> str:
        before = snapshot(weights)
        given, out, err = run("quantize", "colors", folder, "--weights-dir", weights)
        assert (given, out) == (status, "")
        assert snapshot(weights) == before
        assert [path.name for path in weights.iterdir()] == ["colors"]
        assert err.startswith("vt-export: ")
        return err

    return refused


@pytest.mark.parametrize("precision", ["int8", "fp16"])
@pytest.mark.parametrize("repeated", [False, True], ids=["first", "again"])
def test_nothing_is_written_when_one_of_the_graphs_is_too_far_off(
    request, refused, monkeypatch, precision, repeated
):
    """Though the other one was fine."""
    weights = request.getfixturevalue("three_precisions" if repeated else "weights")
    strict = dataclasses.replace(PRECISIONS[precision], parity=Tolerance(1e-9, 1.0))
    monkeypatch.setitem(PRECISIONS, precision, strict)
    sentence = refused(weights, status=1)
    assert "the graph does not compute what the checkpoint computes: logits differs by" in sentence


def test_nothing_is_written_without_photos(refused, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no photo")
    assert "empty holds no photos" in refused(weights, tmp_path / "empty")
    assert "nowhere holds no photos" in refused(weights, tmp_path / "nowhere")


def test_nothing_is_written_where_a_photo_cannot_be_read(refused, weights, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"no photo")
    assert "broken.png cannot be read as an image" in refused(weights, tmp_path / "photos")


@pytest.mark.parametrize("name", ["model.onnx", "checkpoint.safetensors", "golden.npz"])
def test_a_version_whose_files_were_changed_is_refused(refused, weights, name):
    path = weights / "colors/1" / name
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{name} is not the file that the certificate is about" in refused(weights)


def test_a_version_without_examples_is_measured_on_noise(run, weights, photos):
    for path in (weights / "colors/examples").iterdir():
        path.unlink()
    arguments = ["quantize", "colors", photos[0].parent, "--precision", "fp16"]
    status, out, _ = run(*arguments, "--weights-dir", weights)
    assert status == 0
    assert "0 photos, 4 random images" in out


def test_a_segmenter_is_quantized_too_and_its_golden_outputs_are_labels(
    run, segmenter_conversion, photos
):
    """From a checkpoint in float32, so that the float16 graph is whole."""
    folder, _ = convert.convert(segmenter_conversion)
    name, weights = segmenter_conversion.name, segmenter_conversion.weights
    status, _, err = run("quantize", name, photos[0].parent, "--weights-dir", weights)
    assert (status, err) == (0, "")
    precisions = json_of(folder / "certificate.json")["precisions"]
    assert precisions["int8"]["limits"] == {"accuracy_loss": 0.007}
    assert precisions["fp16"]["limits"] == {"agreement_with_fp32": 0.99}
    assert precisions["fp16"]["external_data"] == []
    golden, own = np.load(folder / "golden.npz"), np.load(folder / "golden.int8.npz")
    assert set(own) == {f"labels_{index}" for index in range(4)}
    for index in range(4):
        assert own[f"labels_{index}"].dtype == np.uint8
        assert (own[f"labels_{index}"] == golden[f"labels_{index}"]).mean() > 0.9
    artifact.open_version(weights, name).check_files()


def test_the_figures_are_plain_json(quantized_weights):
    text = (quantized_weights / "colors/1/certificate.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_each_graph_runs_where_it_lies(quantized_weights):
    version = artifact.open_version(quantized_weights, "colors")
    for precision in PRECISIONS:
        graph = version.graph(precision)
        onnx.checker.check_model(str(graph))
        images = np.zeros((2, 64, 64, 3), np.uint8)
        assert graph_predictor(graph)(images)["logits"].shape == (2, 3)
