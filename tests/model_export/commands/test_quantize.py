"""`quantize` adds measured and certified graphs to a version, or changes nothing."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from model_export.__main__ import main
from model_export.comparison.predictors import graph_predictor
from model_export.entry.precisions import PRECISIONS, Tolerance
from model_export.entry.version import open_version
from tests.model_export.files import json_of, noise_photo, samples_sha256, sha256, snapshot

NEW_FILES = {"model.int8.onnx", "golden.int8.npz", "model.fp16.onnx"}


def certificate_of(weights: Path) -> dict:
    return json_of(weights / "colors/1/certificate.json")


def test_a_version_gains_two_graphs_and_the_golden_outputs_of_int8(
    classifier_weights, quantized_weights
):
    before, after = snapshot(classifier_weights), snapshot(quantized_weights)
    assert after.keys() - before.keys() == {f"colors/1/{name}" for name in NEW_FILES}
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {"colors/config.json", "colors/1/certificate.json"}
    assert [path.name for path in quantized_weights.iterdir()] == ["colors"]


def test_the_hashes_match_the_files(classifier_weights, quantized_weights):
    folder = quantized_weights / "colors/1"
    contract = json_of(quantized_weights / "colors/config.json")
    assert contract["versions"]["1"]["certificate_sha256"] == sha256(folder / "certificate.json")
    files = certificate_of(quantized_weights)["files"]
    assert files.keys() == certificate_of(classifier_weights)["files"].keys() | NEW_FILES
    for name, facts in files.items():
        path = folder / name
        assert facts == {"sha256": sha256(path), "bytes": path.stat().st_size}
    open_version(quantized_weights, "colors").check_files()


def test_nothing_else_changes_in_contract_and_certificate(classifier_weights, quantized_weights):
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
def test_the_certificate_describes_each_graph_and_its_tolerances(
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


def test_the_certificate_identifies_the_calibration_photos_of_int8(quantized_weights, photos):
    precisions = certificate_of(quantized_weights)["precisions"]
    sha256_of_photos = samples_sha256(*((photo, 0) for photo in photos))
    assert precisions["int8"]["calibration"] == {"images": 3, "sha256": sha256_of_photos}
    assert "calibration" not in precisions["fp16"]


def test_the_golden_outputs_of_int8_are_its_own_answers(quantized_weights):
    folder = quantized_weights / "colors/1"
    golden, own = np.load(folder / "golden.npz"), np.load(folder / "golden.int8.npz")
    assert set(own) == {f"logits_{index}" for index in range(3)}
    session = onnxruntime.InferenceSession(folder / "model.int8.onnx")
    for index in range(3):
        (logits,) = session.run(["logits"], {"images": golden[f"image_{index}"][None]})[0]
        np.testing.assert_allclose(own[f"logits_{index}"], logits, rtol=1e-5)
        assert not np.array_equal(own[f"logits_{index}"], golden[f"logits_{index}"])


def test_exporting_the_checkpoint_of_an_entry_reproduces_it_to_the_bit(
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
    assert different <= {"certificate.json"}  # it contains the latencies
    assert certificate_of(weights)["files"] == certificate_of(quantized_weights)["files"]


def test_only_the_comparison_and_the_written_files_are_printed(weights, photos, capfd):
    arguments = [str(photos[0].parent), "--weights-dir", str(weights)]
    status = main(["quantize", "colors", *arguments])
    out, err = capfd.readouterr()  # the libraries write past Python
    assert (status, err) == (0, "")
    for precision in ("int8", "fp16"):
        assert f"torch against {precision} (CPUExecutionProvider): 3 photos" in out
        assert f"wrote {weights}/colors/1/model.{precision}.onnx" in out


def test_a_single_precision_can_be_added(run, weights, photos):
    arguments = ["quantize", "colors", photos[0].parent, "--weights-dir", weights]
    status, out, _ = run(*arguments, "--precision", "int8")
    assert status == 0
    assert "fp16" not in out
    assert list(certificate_of(weights)["precisions"]) == ["fp32", "int8"]
    assert not (weights / "colors/1/model.fp16.onnx").exists()
    open_version(weights, "colors").check_files()


def test_quantizing_again_replaces_graph_and_figures_and_drops_the_accuracy(
    run, three_precisions, colors, tmp_path
):
    """The accuracy belongs to the old graph; the new one has to be measured."""
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
    open_version(weights, "colors").check_files()


@pytest.fixture
def refused(run, photos):
    """Run a `quantize` that must fail without changing anything; returns its error message."""

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
def test_nothing_is_written_if_one_of_the_graphs_is_outside_its_tolerance(
    request, refused, monkeypatch, precision, repeated
):
    """Even if the other graph is fine."""
    weights = request.getfixturevalue("three_precisions" if repeated else "weights")
    strict = dataclasses.replace(PRECISIONS[precision], parity=Tolerance(1e-9, 1.0))
    monkeypatch.setitem(PRECISIONS, precision, strict)
    sentence = refused(weights, status=1)
    assert "the graph's outputs differ from the checkpoint's: logits differs by" in sentence


def test_nothing_is_written_without_photos(refused, weights, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/notes.txt").write_text("no photo")
    assert "empty contains no photos" in refused(weights, tmp_path / "empty")
    assert "nowhere contains no photos" in refused(weights, tmp_path / "nowhere")


def test_nothing_is_written_if_a_photo_cannot_be_read(refused, weights, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/broken.png").write_bytes(b"no photo")
    assert "broken.png cannot be read as an image" in refused(weights, tmp_path / "photos")


@pytest.mark.parametrize("name", ["model.onnx", "checkpoint.safetensors", "golden.npz"])
def test_a_version_whose_files_were_changed_is_refused(refused, weights, name):
    path = weights / "colors/1" / name
    path.write_bytes(path.read_bytes() + b" ")
    assert f"{name} is missing or differs from the certified file" in refused(weights)


def test_a_version_without_examples_is_measured_on_noise(run, weights, photos):
    for path in (weights / "colors/examples").iterdir():
        path.unlink()
    arguments = ["quantize", "colors", photos[0].parent, "--precision", "fp16"]
    status, out, _ = run(*arguments, "--weights-dir", weights)
    assert status == 0
    assert "0 photos, 4 random images" in out


def test_a_segmenter_is_quantized_too_and_its_golden_outputs_are_labels(
    run, exported_segmenter, photos
):
    """From a checkpoint in float32, so that the float16 graph contains all its weights."""
    folder = exported_segmenter.folder
    name, weights = exported_segmenter.job.name, exported_segmenter.job.weights
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
    open_version(weights, name).check_files()


def test_the_certificate_is_strict_json(quantized_weights):
    text = (quantized_weights / "colors/1/certificate.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_each_graph_runs_in_its_folder(quantized_weights):
    version = open_version(quantized_weights, "colors")
    for precision in PRECISIONS:
        graph = version.graph(precision)
        onnx.checker.check_model(str(graph))
        images = np.zeros((2, 64, 64, 3), np.uint8)
        assert graph_predictor(graph)(images)["logits"].shape == (2, 3)
