"""`export` writes a complete, verified entry, or nothing."""

import dataclasses
import hashlib
import importlib.metadata
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from model_export import checkpoint
from model_export.commands.export import ExportJob, export
from model_export.comparison.predictors import graph_predictor
from model_export.entry.labels import Labels
from model_export.entry.version import open_version
from model_export.errors import (
    ExportError,
    InvalidCheckpoint,
    InvalidEntry,
    InvalidModel,
    VerificationFailed,
)
from model_export.models.registry import dimensions_of
from model_export.preprocessing import Crop, Preprocessing, Squash
from tests.model_export.conftest import LABELS, PALETTE
from tests.model_export.files import json_of, noise_photo, sha256, snapshot
from tests.model_export.networks import photographs

PREPROCESSING = {
    "resize": {"height": 64, "width": 64, "mode": "squash"},
    "filter": "bilinear",
    "jpeg_reducing_gap": 2.0,
    "fill": [255, 255, 255],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "exif_orientation": True,
    "color_space": "RGB",
    "color_profile": "srgb",
}


@pytest.fixture
def job(weights, half_checkpoint) -> ExportJob:
    """The export that made the entry."""
    return ExportJob(
        source=half_checkpoint,
        dimensions=dimensions_of("vt_resnet18", classes=3),
        name="colors",
        labels=Labels(LABELS, PALETTE),
        preprocessing=Preprocessing(Squash(64, 64)),
        max_batch_size=8,
        weights=weights,
    )


@pytest.fixture
def refused(job):
    """Run a changed job that must be refused without writing anything, by default untraced."""

    def untraced(*_) -> None:
        pytest.fail("the network was traced")

    def refused(error: type[ExportError], sentence: str, trace=untraced, **changes) -> None:
        before = snapshot(job.weights)
        with pytest.raises(error, match=sentence):
            export(dataclasses.replace(job, **changes), trace)
        assert snapshot(job.weights) == before
        assert [p.name for p in job.weights.iterdir()] == ["colors"]

    return refused


def test_an_entry_contains_the_documented_files(classifier_weights):
    assert set(snapshot(classifier_weights)) == {
        "colors/config.json",
        "colors/README.md",
        "colors/1/model.onnx",
        "colors/1/golden.npz",
        "colors/1/head.npz",
        "colors/1/certificate.json",
        "colors/1/checkpoint.safetensors",
        *(f"colors/examples/{index}.png" for index in range(3)),
    }


def test_the_contract_has_the_documented_contents(classifier_weights, half_checkpoint):
    contract = json_of(classifier_weights / "colors/config.json")
    versions = contract.pop("versions")
    canonical = json.dumps(PREPROCESSING, sort_keys=True, separators=(",", ":"))
    assert contract == {
        "format_version": 1,
        "name": "colors",
        "task": "classification",
        "platform": "onnxruntime_onnx",
        "max_batch_size": 8,
        "inputs": [{"name": "images", "datatype": "UINT8", "shape": [-1, 64, 64, 3]}],
        "outputs": [
            {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
            {"name": "tokens", "datatype": "FP32", "shape": [-1, 16, 1024]},
            {"name": "token_attention", "datatype": "FP32", "shape": [-1, 2, 16, 4, 4]},
        ],
        "labels": list(LABELS),
        "palette": None,
        "preprocessing": PREPROCESSING,
        "preprocessing_sha256": hashlib.sha256(canonical.encode()).hexdigest(),
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "max_queue_size": 256,
            "default_timeout_microseconds": 30_000_000,
        },
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        "dimensions": {
            "family": "vt_resnet",
            "depth": 18,
            "classes": 3,
            "stride_in_1x1": False,
            "tokenizer": "recurrent",
            "token_relation": "transformer",
            "tokens": 16,
            "projector": True,
            "heads": 1,
        },
    }
    assert list(versions) == ["1"]
    provenance = versions["1"]["provenance"]
    assert provenance["checkpoint_sha256"] == sha256(half_checkpoint)
    assert provenance["opset"] == 20
    tools = ("vt-serve", "torch", "onnx", "onnxscript", "onnxruntime")
    assert provenance["tools"] == {tool: importlib.metadata.version(tool) for tool in tools}


def test_the_hashes_match_the_files(classifier_weights):
    folder = classifier_weights / "colors/1"
    contract = json_of(classifier_weights / "colors/config.json")
    listed = contract["versions"]["1"]["certificate_sha256"]
    assert listed == sha256(folder / "certificate.json")
    files = json_of(folder / "certificate.json")["files"]
    assert files.keys() == {"model.onnx", "golden.npz", "head.npz", "checkpoint.safetensors"}
    for name, facts in files.items():
        path = folder / name
        assert facts == {"sha256": sha256(path), "bytes": path.stat().st_size}


def test_the_certificate_contains_the_measured_parity(classifier_weights):
    certificate = json_of(classifier_weights / "colors/1/certificate.json")
    assert certificate["format_version"] == 1
    assert (certificate["model"], certificate["version"]) == ("colors", "1")
    section = certificate["precisions"]["fp32"]
    assert certificate["golden"] == "golden.npz"
    assert section["file"] == "model.onnx"
    assert section["golden_outputs"] == "golden.npz"
    assert section["self_test"] == {"max_relative_difference": 2e-3, "agreement": 0.999}
    assert section["limits"] == {}
    measured = section["execution_providers"]["CPUExecutionProvider"]
    assert measured.keys() == {"parity", "batch_invariance", "latency"}
    parity = measured["parity"]
    assert parity["batches"] == [1, 2, 7, 8]
    assert parity["sizes"] == [[64, 64]]
    assert parity["real_images"] == 3
    assert parity["agreement"] == 1.0
    outputs = {"logits", "tokens", "token_attention"}
    for key in ("max_absolute_difference", "max_relative_difference", "mean_absolute_difference"):
        assert parity[key].keys() == outputs
    assert max(parity["max_relative_difference"].values()) <= 1e-4


def test_the_contributions_of_the_tokens_sum_to_the_logits_less_the_bias(classifier_weights):
    version = open_version(classifier_weights, "colors")
    head = np.load(version.folder / version.certificate()["head"])
    outputs = graph_predictor(version.graph())(photographs(2))
    contributions = outputs["tokens"] @ head["weight"].T / outputs["tokens"].shape[1]
    expected = outputs["logits"] - head["bias"]
    np.testing.assert_allclose(contributions.sum(axis=1), expected, rtol=1e-3, atol=1e-3)


def test_a_safetensors_checkpoint_is_stored_unchanged(classifier_weights, half_checkpoint):
    stored = classifier_weights / "colors/1/checkpoint.safetensors"
    assert stored.read_bytes() == half_checkpoint.read_bytes()


def test_the_entry_can_be_opened_checked_and_run(classifier_weights):
    version = open_version(classifier_weights, "colors")
    version.check_files()
    assert version.dimensions == dimensions_of("vt_resnet18", classes=3)
    assert version.preprocessing == Preprocessing(Squash(64, 64))
    assert [path.name for path in version.examples] == ["0.png", "1.png", "2.png"]
    logits = graph_predictor(version.graph())(photographs(2))["logits"]
    assert logits.shape == (2, 3)
    assert not version.network().training


def test_the_golden_answers_are_the_checkpoints(classifier_weights, photos):
    version = open_version(classifier_weights, "colors")
    golden = np.load(version.folder / "golden.npz")
    assert set(golden) == {f"{kind}_{index}" for kind in ("image", "logits") for index in range(3)}
    network, (mean, std) = version.network(), (PREPROCESSING["mean"], PREPROCESSING["std"])
    for index, photo in enumerate(photos):
        image = np.asarray(Image.open(photo).resize((64, 64), Image.Resampling.BILINEAR))
        assert np.array_equal(golden[f"image_{index}"], image)
        pixels = ((image / 255 - mean) / std).transpose(2, 0, 1)
        with torch.inference_mode():
            logits = network(torch.tensor(pixels, dtype=torch.float32)[None])[0]
        np.testing.assert_allclose(golden[f"logits_{index}"], logits, rtol=1e-4, atol=1e-5)


def test_the_model_card_is_a_stub_with_the_known_facts(classifier_weights):
    card = (classifier_weights / "colors/README.md").read_text()
    assert card.startswith("# colors\n")
    assert "vt_resnet 18, classification, 3 classes" in card
    for heading in ("## Data and recipe", "## Accuracy", "## Limits", "## Licence"):
        assert heading in card


def test_a_second_export_becomes_version_2(job, ready_trace):
    entry = job.weights / "colors"
    (entry / "README.md").write_text("written by a person")
    before = snapshot(entry)
    folder, _ = export(job, ready_trace)
    assert folder == entry / "2"
    contract = json_of(entry / "config.json")
    assert list(contract["versions"]) == ["1", "2"]
    assert contract["versions"]["2"]["certificate_sha256"] == sha256(folder / "certificate.json")
    after = snapshot(entry)
    assert {name for name in before if after[name] != before[name]} == {"config.json"}
    assert open_version(job.weights, "colors").version == "2"
    open_version(job.weights, "colors", "1").check_files()


def test_the_version_after_a_chosen_version_is_one_higher(job, ready_trace):
    export(dataclasses.replace(job, version="9"), ready_trace)
    folder, _ = export(job, ready_trace)
    assert folder.name == "10"
    assert open_version(job.weights, "colors").version == "10"


def test_serving_settings_of_an_operator_survive_a_second_export(job, ready_trace):
    path = job.weights / "colors/config.json"
    contract = json_of(path)
    contract["dynamic_batching"]["max_queue_size"] = 7
    contract["instance_group"][0]["count"] = 2
    contract["version_policy"] = {"all": {}}
    path.write_text(json.dumps(contract))
    export(job, ready_trace)
    again = json_of(path)
    assert again["dynamic_batching"]["max_queue_size"] == 7
    assert again["instance_group"] == [{"count": 2, "kind": "KIND_AUTO"}]
    assert again["version_policy"] == {"all": {}}


def test_a_new_version_may_use_the_examples_of_the_entry(job, ready_trace):
    examples = job.weights / "colors/examples"
    before = snapshot(examples)
    photos = tuple(sorted(examples.iterdir()))
    folder, _ = export(dataclasses.replace(job, examples=photos), ready_trace)
    assert folder.name == "2"
    assert snapshot(examples) == before


def test_examples_are_copied_into_the_entry(job, ready_trace, tmp_path):
    photo = noise_photo(tmp_path / "new.png", 9)
    export(dataclasses.replace(job, examples=(photo,)), ready_trace)
    copied = job.weights / "colors/examples/new.png"
    assert copied.read_bytes() == photo.read_bytes()


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("labels", {"labels": Labels(("red", "green", "blue"), PALETTE)}),
        ("preprocessing", {"preprocessing": Preprocessing(Squash(64, 64), filter="bicubic")}),
        ("preprocessing", {"preprocessing": Preprocessing(Crop(72, 64, 64))}),
        ("max_batch_size", {"max_batch_size": 16}),
    ],
    ids=["labels in another order", "another filter", "cropped", "other largest batch"],
)
def test_versions_of_one_model_differ_only_in_their_weights(refused, ready_trace, key, changes):
    sentence = f"colors already exists with different {key}"
    refused(InvalidEntry, sentence, ready_trace, **changes)


def test_a_graph_that_fails_verification_is_not_written(refused, ready_trace):
    def trace_with_one_changed_weight(model, task, input_size, path):
        ready_trace(model, task, input_size, path)
        proto = onnx.load(path)
        bias = next(t for t in proto.graph.initializer if t.name.endswith("fc.bias"))
        values = numpy_helper.to_array(bias) + np.array([0.1, 0, 0], np.float32)
        bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias.name))
        onnx.save(proto, path)

    sentence = r"logits differs by .* of its largest magnitude"
    refused(VerificationFailed, sentence, trace_with_one_changed_weight)


def test_an_interrupted_export_leaves_nothing_behind(refused):
    def full_disk(model, task, input_size, path):
        path.write_bytes(b"half a gra")
        raise ExportError("no space left on device")

    refused(ExportError, "no space left", full_disk)
    refused(ExportError, "no space left", full_disk, version="7")


def test_the_number_of_labels_must_be_the_number_of_classes(refused):
    labels = Labels(("red", "green"), PALETTE[:2])
    refused(InvalidModel, "2 labels for a model of 3 classes", labels=labels)


def test_a_checkpoint_of_another_model_is_refused(refused):
    refused(
        InvalidModel,
        "is a vt_resnet18 with .* not a vt_resnet18 with",
        dimensions=dimensions_of("vt_resnet18", classes=3, heads=4),
    )


def test_a_foreign_checkpoint_is_refused_with_a_list_of_its_keys(refused, tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, path)
    refused(InvalidCheckpoint, r"unexpected: encoder\.weight", source=path)


@pytest.mark.parametrize(
    "name",
    ["../x", "x/y", "", ".hidden", "..", "Colors", "a b", "colors\n", "é", "a" * 65, "/abs"],
)
def test_a_name_that_is_not_a_plain_folder_name_is_refused(refused, name):
    refused(InvalidEntry, "invalid model name", name=name)


@pytest.mark.parametrize("version", ["0", "-1", "01", "1.5", "v2", "../1", "1\n", "٣"])
def test_a_version_that_is_not_a_positive_integer_is_refused(refused, version):
    refused(InvalidEntry, "invalid version .*: a version is a positive integer", version=version)


def test_an_existing_version_is_refused(refused):
    refused(InvalidEntry, "colors/1 already exists; omit --version", version="1")


def test_an_unlisted_version_folder_is_not_overwritten(refused, job):
    (job.weights / "colors/2").mkdir()
    refused(InvalidEntry, "colors/2 already exists; remove it or set --version")


def test_a_pickled_checkpoint_is_stored_as_safetensors(job, ready_trace, tmp_path):
    """A `.pth` from a training wrapper, in float32 or float16, loads from the entry again."""
    stored = checkpoint.read(job.source)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in stored.tensors.items()}}, wrapped)
    export(dataclasses.replace(job, source=wrapped), ready_trace)
    version = open_version(job.weights, "colors", "2")
    again = checkpoint.read(version.folder / "checkpoint.safetensors")
    assert again.dimensions == job.dimensions
    assert all(torch.equal(again.tensors[k], v.float()) for k, v in stored.tensors.items())


def test_a_segmenters_contract_has_dynamic_sizes_and_a_palette(exported_segmenter):
    folder, parity = exported_segmenter.folder, exported_segmenter.parity
    contract = json_of(folder.parent / "config.json")
    assert contract["task"] == "segmentation"
    assert contract["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert contract["outputs"] == [
        {"name": "labels", "datatype": "UINT8", "shape": [-1, -1, -1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 3, -1, -1]},
        {"name": "tokens", "datatype": "FP32", "shape": [-1, 32, 1024]},
        *(
            {
                "name": f"token_attention_stride_{stride}",
                "datatype": "FP32",
                "shape": [-1, 8, -1, -1],
            }
            for stride in (4, 8, 16, 32)
        ),
    ]
    assert contract["palette"] == [list(color) for color in PALETTE]
    assert contract["preprocessing"]["resize"] == {
        "mode": "buckets",
        "sizes": [[32, 32], [32, 64], [32, 96], [64, 32], [96, 32]],
    }
    assert parity.agreement > 0.9999
    golden = np.load(folder / "golden.npz")
    assert golden["image_0"].shape == (32, 32, 3)  # noise, because there are no photos
    assert golden["labels_0"].shape == (32, 32)
    assert golden["labels_0"].dtype == np.uint8


def export_arguments(weights, labels_file) -> list:
    return [
        *("--model", "vt_resnet18", "--name", "shapes", "--labels", labels_file),
        *("--input-size", 64, 64, "--max-batch-size", 8, "--weights-dir", weights),
    ]


def test_a_checkpoint_that_does_not_fit_is_refused_with_keys_and_nothing_is_written(
    run, tmp_path, labels_file
):
    torch.save({f"layer{i}.weight": torch.zeros(1) for i in range(30)}, tmp_path / "x.pth")
    arguments = export_arguments(tmp_path / "weights", labels_file)
    status, _, err = run("export", tmp_path / "x.pth", *arguments)
    assert status == 2
    assert "unexpected: layer0.weight" in err
    assert "unexpected: and 10 more" in err
    assert "missing: fc.bias" in err
    assert not (tmp_path / "weights").exists()


def test_a_repository_that_cannot_be_written_ends_with_status_2(
    run, tmp_path, half_checkpoint, labels_file
):
    (tmp_path / "weights").write_text("a file")
    arguments = export_arguments(tmp_path / "weights", labels_file)
    status, _, err = run("export", half_checkpoint, *arguments)
    assert status == 2
    assert err.startswith("vt-export: ")


def test_the_comparison_and_the_written_folder_are_printed(first_export):
    out = first_export.output
    assert "batches [1, 2, 7, 8], sizes [(64, 64)]" in out
    assert "logits: largest difference" in out
    assert "answers that agree: 100.0000%" in out
    assert out.endswith(f"wrote {first_export.weights / 'colors' / '1'}\n")
