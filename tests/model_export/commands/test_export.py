"""Exporting writes a whole, verified, documented entry, or nothing."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from model_export import checkpoint
from model_export.commands import export as convert
from model_export.comparison.predictors import graph_predictor, reference_predictor
from model_export.entry import artifact
from model_export.entry.labels import Labels
from model_export.errors import (
    ExportError,
    InvalidCheckpoint,
    InvalidEntry,
    InvalidModel,
    VerificationFailed,
)
from model_export.graphs.trace import OPSET
from model_export.models.registry import dimensions_of
from model_export.models.served import served
from model_export.preprocessing import Buckets, Crop, Preprocessing, Squash, open_image
from tests.model_export.conftest import LABELS, PALETTE
from tests.model_export.files import json_of, noise_photo, sha256, snapshot
from tests.model_export.networks import photographs


@pytest.fixture
def conversion(weights, half_checkpoint) -> convert.Conversion:
    """The export that made the entry, once more."""
    return convert.Conversion(
        source=half_checkpoint,
        dimensions=dimensions_of("vt_resnet18", classes=3),
        name="colors",
        labels=Labels(LABELS, PALETTE),
        preprocessing=Preprocessing(Squash(64, 64)),
        max_batch_size=8,
        weights=weights,
    )


@pytest.fixture
def refused(conversion):
    """Run a changed conversion that must be refused and leave every byte where it was."""

    def refused(error: type[ExportError], sentence: str, **changes) -> None:
        before = snapshot(conversion.weights)
        with pytest.raises(error, match=sentence):
            convert.convert(dataclasses.replace(conversion, **changes))
        assert snapshot(conversion.weights) == before
        assert [p.name for p in conversion.weights.iterdir()] == ["colors"]

    return refused


def test_an_entry_holds_the_documented_files(classifier_weights):
    assert set(snapshot(classifier_weights)) == {
        "colors/config.json",
        "colors/README.md",
        "colors/1/model.onnx",
        "colors/1/golden.npz",
        "colors/1/certificate.json",
        "colors/1/checkpoint.safetensors",
        *(f"colors/examples/{index}.png" for index in range(3)),
    }


def test_the_contract_says_what_the_documentation_promises(classifier_weights, half_checkpoint):
    contract = json_of(classifier_weights / "colors/config.json")
    versions = contract.pop("versions")
    preprocessing = Preprocessing(Squash(64, 64))
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
        "preprocessing": preprocessing.as_dict(),
        "preprocessing_sha256": preprocessing.sha256,
        "dynamic_batching": {
            "max_queue_delay_microseconds": 0,
            "max_queue_size": 256,
            "default_timeout_microseconds": 30_000_000,
        },
        "instance_group": [{"count": 1, "kind": "KIND_AUTO"}],
        "dimensions": dimensions_of("vt_resnet18", classes=3).as_dict(),
    }
    assert list(versions) == ["1"]
    provenance = versions["1"]["provenance"]
    assert provenance["checkpoint_sha256"] == sha256(half_checkpoint)
    assert provenance["opset"] == OPSET
    assert provenance["tools"]["torch"] == torch.__version__.split("+")[0] or torch.__version__
    assert {"torch", "onnx", "onnxruntime", "vt-serve"} <= provenance["tools"].keys()


def test_the_hashes_of_contract_and_certificate_are_true(classifier_weights):
    folder = classifier_weights / "colors/1"
    contract = json_of(classifier_weights / "colors/config.json")
    listed = contract["versions"]["1"]["certificate_sha256"]
    assert listed == sha256(folder / "certificate.json")
    files = json_of(folder / "certificate.json")["files"]
    assert files.keys() == {"model.onnx", "golden.npz", "checkpoint.safetensors"}
    for name, facts in files.items():
        path = folder / name
        assert facts == {"sha256": sha256(path), "bytes": path.stat().st_size}


def test_the_certificate_holds_the_measured_parity(classifier_weights):
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


def test_the_entrys_own_checkpoint_is_the_one_that_was_given(classifier_weights, half_checkpoint):
    stored = classifier_weights / "colors/1/checkpoint.safetensors"
    assert stored.read_bytes() == half_checkpoint.read_bytes()


def test_the_entry_opens_checks_and_computes(classifier_weights):
    version = artifact.open_version(classifier_weights, "colors")
    version.check_files()
    assert version.dimensions == dimensions_of("vt_resnet18", classes=3)
    assert version.preprocessing == Preprocessing(Squash(64, 64))
    assert [path.name for path in version.examples] == ["0.png", "1.png", "2.png"]
    logits = graph_predictor(version.graph())(photographs(2))["logits"]
    assert logits.shape == (2, 3)
    assert not version.network().training


def test_the_golden_answers_are_the_checkpoints(classifier_weights, photos):
    version = artifact.open_version(classifier_weights, "colors")
    golden = np.load(version.folder / "golden.npz")
    assert set(golden) == {f"{kind}_{index}" for kind in ("image", "logits") for index in range(3)}
    model = served(version.network(), version.preprocessing.mean, version.preprocessing.std)
    predict = reference_predictor(model)
    for index, photo in enumerate(photos):
        image = golden[f"image_{index}"]
        assert np.array_equal(image, version.preprocessing(open_image(photo)))
        logits = predict(image[None])["logits"][0]
        np.testing.assert_allclose(golden[f"logits_{index}"], logits, rtol=1e-5)


def test_the_model_card_is_a_stub_with_the_known_facts(classifier_weights):
    card = (classifier_weights / "colors/README.md").read_text()
    assert card.startswith("# colors\n")
    assert "vt_resnet 18, classification, 3 classes" in card
    for heading in ("## Data and recipe", "## Accuracy", "## Limits", "## Licence"):
        assert heading in card


def test_a_second_export_becomes_version_2(conversion, ready_graph):
    entry = conversion.weights / "colors"
    (entry / "README.md").write_text("written by a person")
    before = snapshot(entry)
    folder, _ = convert.convert(conversion)
    assert folder == entry / "2"
    contract = json_of(entry / "config.json")
    assert list(contract["versions"]) == ["1", "2"]
    assert contract["versions"]["2"]["certificate_sha256"] == sha256(folder / "certificate.json")
    after = snapshot(entry)
    assert {name for name in before if after[name] != before[name]} == {"config.json"}
    assert artifact.open_version(conversion.weights, "colors").version == "2"
    artifact.open_version(conversion.weights, "colors", "1").check_files()


def test_a_chosen_version_is_taken_and_the_next_one_counts_on(conversion, ready_graph):
    convert.convert(dataclasses.replace(conversion, version="9"))
    folder, _ = convert.convert(conversion)
    assert folder.name == "10"
    assert artifact.open_version(conversion.weights, "colors").version == "10"


def test_what_an_operator_tuned_in_the_contract_survives_a_second_export(conversion, ready_graph):
    path = conversion.weights / "colors/config.json"
    contract = json_of(path)
    contract["dynamic_batching"]["max_queue_size"] = 7
    contract["instance_group"][0]["count"] = 2
    contract["version_policy"] = {"all": {}}
    path.write_text(json.dumps(contract))
    convert.convert(conversion)
    again = json_of(path)
    assert again["dynamic_batching"]["max_queue_size"] == 7
    assert again["instance_group"] == [{"count": 2, "kind": "KIND_AUTO"}]
    assert again["version_policy"] == {"all": {}}


def test_a_further_version_may_take_the_examples_of_the_entry(conversion, ready_graph):
    examples = conversion.weights / "colors/examples"
    before = snapshot(examples)
    photos = tuple(sorted(examples.iterdir()))
    folder, _ = convert.convert(dataclasses.replace(conversion, examples=photos))
    assert folder.name == "2"
    assert snapshot(examples) == before


def test_examples_are_copied_into_the_entry(conversion, ready_graph, tmp_path):
    photo = noise_photo(tmp_path / "new.png", 9)
    convert.convert(dataclasses.replace(conversion, examples=(photo,)))
    copied = conversion.weights / "colors/examples/new.png"
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
def test_versions_of_one_model_differ_in_their_weights_alone(refused, ready_graph, key, changes):
    refused(InvalidEntry, f"colors exists with other {key}", **changes)


def test_a_graph_that_fails_verification_is_not_written(refused, ready_graph, monkeypatch):
    def export_with_one_changed_weight(model, task, input_size, path):
        proto = onnx.load(ready_graph)
        bias = next(t for t in proto.graph.initializer if t.name.endswith("fc.bias"))
        values = numpy_helper.to_array(bias) + np.array([0.1, 0, 0], np.float32)
        bias.CopyFrom(numpy_helper.from_array(values.astype(np.float32), bias.name))
        onnx.save(proto, path)

    monkeypatch.setattr(convert, "export_graph", export_with_one_changed_weight)
    refused(VerificationFailed, r"logits differs by .* of its largest magnitude")


def test_an_export_that_breaks_off_leaves_nothing(refused, monkeypatch):
    def full_disk(model, task, input_size, path):
        path.write_bytes(b"half a gra")
        raise ExportError("no space left on device")

    monkeypatch.setattr(convert, "export_graph", full_disk)
    refused(ExportError, "no space left")
    refused(ExportError, "no space left", version="7")


def test_as_many_labels_as_classes_are_needed(refused):
    labels = Labels(("red", "green"), PALETTE[:2])
    refused(InvalidModel, "2 labels do not fit a model of 3 classes", labels=labels)


def test_a_checkpoint_of_another_model_is_refused(refused):
    refused(
        InvalidModel,
        "is a vt_resnet18 with .* not a vt_resnet18 with",
        dimensions=dimensions_of("vt_resnet18", classes=3, heads=4),
    )


def test_a_foreign_checkpoint_is_refused_with_its_keys(refused, tmp_path):
    path = tmp_path / "foreign.pth"
    torch.save({"encoder.weight": torch.zeros(2)}, path)
    refused(InvalidCheckpoint, r"unexpected: encoder\.weight", source=path)


@pytest.mark.parametrize(
    "name",
    ["../x", "x/y", "", ".hidden", "..", "Colors", "a b", "colors\n", "é", "a" * 65, "/abs"],
)
def test_a_name_that_is_no_plain_folder_name_is_refused(refused, name):
    refused(InvalidEntry, "is no name for a model", name=name)


@pytest.mark.parametrize("version", ["0", "-1", "01", "1.5", "v2", "../1", "1\n", "٣"])
def test_a_version_that_is_no_positive_integer_is_refused(refused, version):
    refused(InvalidEntry, "a version is a positive integer", version=version)


def test_an_existing_version_is_refused(refused):
    refused(InvalidEntry, "colors has a version 1 already", version="1")


def test_a_version_folder_that_is_not_listed_is_not_overwritten(refused, conversion):
    (conversion.weights / "colors/2").mkdir()
    refused(InvalidEntry, "colors has a version 2 already")


def test_a_plain_checkpoint_is_stored_as_safetensors(conversion, ready_graph, tmp_path):
    """A `.pth` from a training wrapper, in float32 or float16, loads from the entry again."""
    stored = checkpoint.read(conversion.source)
    wrapped = tmp_path / "wrapped.pth"
    torch.save({"state_dict": {f"module.{k}": v for k, v in stored.tensors.items()}}, wrapped)
    convert.convert(dataclasses.replace(conversion, source=wrapped))
    version = artifact.open_version(conversion.weights, "colors", "2")
    again = checkpoint.read(version.folder / "checkpoint.safetensors")
    assert again.dimensions == conversion.dimensions
    assert all(torch.equal(again.tensors[k], v.float()) for k, v in stored.tensors.items())


def test_a_segmenters_contract_has_dynamic_sizes_and_a_palette(segmenter_conversion):
    folder, parity = convert.convert(segmenter_conversion)
    contract = json_of(folder.parent / "config.json")
    assert contract["task"] == "segmentation"
    assert contract["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, -1, -1, 3]}]
    assert contract["outputs"] == [{"name": "labels", "datatype": "UINT8", "shape": [-1, -1, -1]}]
    assert contract["palette"] == [list(color) for color in PALETTE]
    assert contract["preprocessing"]["resize"] == {
        "mode": "buckets",
        "sizes": [[32, 32], [32, 64], [32, 96], [64, 32], [96, 32]],
    }
    assert parity.agreement > 0.9999
    golden = np.load(folder / "golden.npz")
    assert golden["image_0"].shape == (32, 32, 3)  # noise, where there are no photos
    assert golden["labels_0"].shape == (32, 32)
    assert golden["labels_0"].dtype == np.uint8


@pytest.mark.parametrize(
    ("model", "size", "crop_from", "expected"),
    [
        ("vt_resnet18", None, None, Squash(224, 224)),
        ("vt_resnet18", (96, 128), None, Squash(96, 128)),
        ("vt_resnet18", None, 256, Crop(256, 224, 224)),
        ("vt_resnet18", (96, 128), 128, Crop(128, 96, 128)),
        ("fpn_resnet18", None, None, Buckets.around(512)),
        ("fpn_resnet18", (320, 416), None, Buckets.around(320)),
    ],
)
def test_the_preprocessing_follows_from_task_and_size(model, size, crop_from, expected):
    assert convert.preprocessing_for(dimensions_of(model), size, crop_from).resize == expected


def test_a_segmenters_size_must_be_a_multiple_of_32():
    with pytest.raises(InvalidModel, match="multiples of 32"):
        convert.preprocessing_for(dimensions_of("fpn_resnet18"), (100, 100))


def test_a_crop_is_not_larger_than_what_it_is_cut_from():
    with pytest.raises(InvalidModel, match="short side of 200 is less than the crop 224x224"):
        convert.preprocessing_for(dimensions_of("vt_resnet18"), (224, 224), 200)
