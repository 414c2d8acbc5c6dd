"""The command line: what it prints, what it writes, and how it ends."""

import hashlib
import json
from pathlib import Path

import onnx
import pytest
import torch
from onnx import numpy_helper

from model_export import artifact
from model_export.__main__ import main
from model_export.evaluation import classification_accuracy
from model_export.training.data import image_folder
from model_export.verify import graph_predictor
from tests.model_export.files import color_folders, two_color_pairs


def json_of(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.fixture
def run(capsys):
    """Run a command; returns its exit status and what it printed and complained."""

    def run(*arguments) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_describe_prints_the_costs_as_json(run):
    status, out, err = run("describe", "vt_resnet18", "--json")
    data = json.loads(out)
    assert (status, err) == (0, "")
    assert list(data) == ["model", "task", "dimensions", "input_size", "parameters", "macs"]
    assert data["macs"] == 1_578_950_656
    assert data["parameters"] == 11_671_592


def test_describe_takes_every_dimension(run):
    arguments = ["--tokenizer", "pooling", "--token-relation", "graph", "--tokens", "32"]
    arguments += ["--no-projector", "--stride-in-1x1", "--heads", "2", "--classes", "10"]
    _, out, _ = run("describe", "vt_resnet50", *arguments, "--input-size", "96", "128", "--json")
    data = json.loads(out)
    assert data["input_size"] == [96, 128]
    assert data["dimensions"] == {
        "family": "vt_resnet",
        "depth": 50,
        "classes": 10,
        "stride_in_1x1": True,
        "tokenizer": "pooling",
        "token_relation": "graph",
        "tokens": 32,
        "projector": False,
        "heads": 2,
    }


def test_describe_prints_the_pyramids_part_of_a_segmenter(run):
    _, out, _ = run("describe", "vt_fpn_resnet50", "--stride-in-1x1", "--json")
    data = json.loads(out)
    assert data["module_macs"] / 1e9 == pytest.approx(8.5, rel=0.05)
    assert data["input_size"] == [800, 1216]


def test_describe_prints_a_table(run):
    status, out, _ = run("describe", "resnet18")
    assert status == 0
    assert out.splitlines()[0].split() == ["layer", "kind", "output", "parameters", "MACs"]
    assert "11,689,512 parameters" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["describe", "vt_resnet19"], "there is no model 'vt_resnet19'; the models are resnet18"),
        (["describe", "resnet18", "--tokens", "8"], "resnet18 has no visual tokens"),
        (["describe", "vt_resnet18", "--heads", "7"], "heads must divide 512"),
        (["describe", "fpn_resnet18", "--input-size", "100", "100"], "multiples of 32"),
        (["verify", "nothing", "--weights-dir", "nowhere"], "there is no model nothing in nowhere"),
        (["train", "nowhere", "--model", "resnet18", "--output", "x"], "is not a folder"),
    ],
)
def test_what_cannot_be_done_ends_with_status_2_and_a_sentence(run, arguments, sentence):
    status, out, err = run(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith("vt-export: ")
    assert sentence in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["describe"],
        ["describe", "vt_resnet18", "--tokenizer", "magic"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--epochs", "0"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--batch-size", "-1"],
        ["train", "data", "--model", "resnet18", "--output", "x", "--crop-sizes", "large"],
    ],
)
def test_arguments_that_make_no_sense_end_with_status_2_and_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage: vt-export" in capsys.readouterr().err


def export_arguments(weights, labels_file, name="shapes") -> list:
    return [
        *("--model", "vt_resnet18", "--name", name, "--labels", labels_file),
        *("--input-size", 64, 64, "--max-batch-size", 8, "--weights-dir", weights),
    ]


def test_exporting_a_checkpoint_that_does_not_fit_lists_keys_and_writes_nothing(
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


def test_an_interruption_ends_with_status_130(run, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("model_export.__main__.describe", interrupted)
    assert run("describe", "resnet18")[0] == 130


def test_export_says_what_it_compared_and_what_it_wrote(
    run, weights, half_checkpoint, labels_file, ready_graph
):
    arguments = export_arguments(weights, labels_file, "colors")
    status, out, _ = run("export", half_checkpoint, *arguments)
    assert status == 0
    assert "batches [1, 2, 7, 8], sizes [(64, 64)]" in out
    assert "logits: largest difference" in out
    assert "answers that agree: 100.0000%" in out
    assert out.endswith(f"wrote {weights / 'colors' / '2'}\n")


def test_verify_passes_on_an_entry_and_uses_its_examples(run, weights):
    before = (weights / "colors/1/certificate.json").read_bytes()
    status, out, err = run("verify", "colors", "--weights-dir", weights)
    assert (status, err) == (0, "")
    assert "3 photos, 4 random images" in out
    assert (weights / "colors/1/certificate.json").read_bytes() == before


def test_verify_fails_with_status_1_and_numbers_on_another_graph(run, weights):
    path = weights / "colors/1/model.onnx"
    proto = onnx.load(path)
    bias = next(t for t in proto.graph.initializer if t.name.endswith("fc.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(proto, path)
    status, out, err = run("verify", "colors", "--weights-dir", weights)
    assert status == 1
    assert "logits: largest difference" in out
    assert "the graph does not compute what the checkpoint computes: logits differs by" in err


def test_verify_refuses_an_equal_graph_that_is_not_the_certified_file(run, weights):
    path = weights / "colors/1/model.onnx"
    proto = onnx.load(path)
    proto.doc_string = "harmless"
    onnx.save(proto, path)
    status, _, err = run("verify", "colors", "--weights-dir", weights)
    assert status == 2
    assert "model.onnx is not the file that the certificate is about" in err


def test_verify_takes_other_photos(run, weights, colors, tmp_path):
    status, out, _ = run("verify", "colors", "--weights-dir", weights, "--images", colors / "red")
    assert status == 0
    assert "4 photos" in out
    (tmp_path / "empty").mkdir()
    status, _, err = run(
        "verify", "colors", "--weights-dir", weights, "--images", tmp_path / "empty"
    )
    assert status == 2
    assert "holds no photos" in err


def assert_hashes_agree(weights: Path) -> None:
    content = (weights / "colors/1/certificate.json").read_bytes()
    listed = json_of(weights / "colors/config.json")["versions"]["1"]["certificate_sha256"]
    assert listed == hashlib.sha256(content).hexdigest()


def test_evaluate_measures_through_the_graph(run, weights, colors):
    status, out, _ = run("evaluate", "colors", colors, "--weights-dir", weights)
    assert status == 0
    accuracy = json.loads(out)
    version = artifact.open_version(weights, "colors")
    expected = classification_accuracy(
        graph_predictor(version.graph), image_folder(colors)[0], version.preprocessing
    )
    assert accuracy == {"data": colors.name, "images": 12, **expected}


def test_recording_changes_the_certificate_and_the_contracts_hash_together(run, weights, colors):
    certificate = weights / "colors/1/certificate.json"
    before = certificate.read_bytes()
    arguments = ["--weights-dir", weights, "--record"]
    status, out, _ = run("evaluate", "colors", colors, *arguments, "--data-name", "colors/val")
    assert status == 0
    section = json_of(certificate)["precisions"]["fp32"]["execution_providers"]
    accuracy = section["CPUExecutionProvider"]["accuracy"]
    assert accuracy == json.loads(out)
    assert accuracy["data"] == "colors/val"
    assert certificate.read_bytes() != before
    assert_hashes_agree(weights)

    status, _, _ = run("verify", "colors", *arguments, "--images", colors / "red")
    section = json_of(certificate)["precisions"]["fp32"]["execution_providers"]
    assert status == 0
    assert section["CPUExecutionProvider"]["parity"]["real_images"] == 4
    assert section["CPUExecutionProvider"]["accuracy"] == accuracy
    assert_hashes_agree(weights)
    artifact.open_version(weights, "colors").check_files()


def test_folders_named_like_the_labels_count_by_name_whatever_their_order(
    run, weights, colors, monkeypatch
):
    """The labels' order is the logits'; a folder's order is the alphabet's."""
    path = weights / "colors/config.json"
    contract = json_of(path)
    contract["labels"] = ["red", "blue", "green"]
    path.write_text(json.dumps(contract))
    seen = []

    def accuracy(predict, samples, preprocessing):
        seen.extend((sample.image.parent.name, sample.target) for sample in samples)
        return {"top1": 1.0, "top5": 1.0}

    monkeypatch.setattr("model_export.__main__.classification_accuracy", accuracy)
    run("evaluate", "colors", colors, "--weights-dir", weights)
    assert set(seen) == {("red", 0), ("blue", 1), ("green", 2)}


def test_data_with_another_number_of_classes_is_refused(run, weights, colors, tmp_path):
    color_folders(tmp_path / "data", images=1)
    color_folders(tmp_path / "data", images=1, prefix="dark ")
    status, _, err = run("evaluate", "colors", tmp_path / "data", "--weights-dir", weights)
    assert status == 2
    assert "has 6 class folders, colors has 3" in err


def test_train_writes_a_checkpoint_that_export_accepts_as_it_is(
    run, tmp_path, labels_file, ready_graph
):
    """Up to the verification, which the graph of another network must fail."""
    color_folders(tmp_path / "data/train", images=4)
    color_folders(tmp_path / "data/val", images=1)
    status, out, _ = run(
        *("train", tmp_path / "data", "--model", "vt_resnet18", "--output", tmp_path / "run"),
        *("--epochs", 1, "--batch-size", 6, "--crop-sizes", 32, "--input-size", 32, 32),
        *("--workers", 0),
    )
    assert status == 0
    assert json.loads(out.splitlines()[-1])["epoch"] == 1
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert files == {"last.pt", "metrics.csv", "checkpoint.safetensors"}
    status, _, err = run(
        "export",
        tmp_path / "run/checkpoint.safetensors",
        *export_arguments(tmp_path / "weights", labels_file),
    )
    assert status == 1
    assert "the graph does not compute what the checkpoint computes" in err
    assert list((tmp_path / "weights").iterdir()) == []


def test_train_refuses_folders_whose_classes_differ(run, tmp_path):
    color_folders(tmp_path / "train", images=1)
    color_folders(tmp_path / "val", images=1, prefix="dark ")
    status, _, err = run("train", tmp_path, "--model", "resnet18", "--output", tmp_path / "run")
    assert status == 2
    assert "other classes in train than in val" in err


def test_training_a_segmenter_needs_the_number_of_classes(run, tmp_path):
    for name in ("train", "val"):
        two_color_pairs(tmp_path / name, images=1)
    status, _, err = run("train", tmp_path, "--model", "fpn_resnet18", "--output", tmp_path / "run")
    assert status == 2
    assert "say how many --classes" in err
