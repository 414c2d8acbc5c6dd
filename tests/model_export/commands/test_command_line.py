"""The command line: what it prints, what it writes, and how it ends."""

import json
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from model_export.__main__ import main
from model_export.comparison.evaluation import classification_accuracy, data_sha256
from model_export.comparison.predictors import graph_predictor
from model_export.entry import artifact
from model_export.training.data import image_folder
from tests.model_export.files import color_folders, json_of, sha256, two_color_pairs


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
    listed = json_of(weights / "colors/config.json")["versions"]["1"]["certificate_sha256"]
    assert listed == sha256(weights / "colors/1/certificate.json")


def test_evaluate_measures_through_the_graph(run, weights, colors):
    status, out, _ = run("evaluate", "colors", colors, "--weights-dir", weights)
    assert status == 0
    version = artifact.open_version(weights, "colors")
    samples, _ = image_folder(colors)
    expected = classification_accuracy(
        graph_predictor(version.graph()), samples, version.preprocessing
    )
    facts = {"data": colors.name, "sha256": data_sha256(samples), "images": 12}
    assert json.loads(out) == {"fp32": facts | expected}


def test_recording_changes_the_certificate_and_the_contracts_hash_together(run, weights, colors):
    certificate = weights / "colors/1/certificate.json"
    before = certificate.read_bytes()
    arguments = ["--weights-dir", weights, "--record"]
    status, out, _ = run("evaluate", "colors", colors, *arguments, "--data-name", "colors/val")
    assert status == 0
    section = json_of(certificate)["precisions"]["fp32"]["execution_providers"]
    accuracy = section["CPUExecutionProvider"]["accuracy"]
    assert accuracy == json.loads(out)["fp32"]
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


def test_verify_compares_every_precision_or_those_that_are_named(run, quantized_weights):
    arguments = ["verify", "colors", "--weights-dir", quantized_weights]
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    compared = [line.split()[2] for line in out.splitlines() if line.startswith("torch against")]
    assert compared == ["fp32", "int8", "fp16"]
    status, out, _ = run(*arguments, "--precision", "fp16")
    assert status == 0
    assert out.startswith("torch against fp16 (CPUExecutionProvider)")
    assert out.count("torch against") == 1


def test_verify_records_each_precision_beside_what_was_there(run, three_precisions, colors):
    arguments = ["--weights-dir", three_precisions, "--record"]
    run("evaluate", "colors", colors, *arguments)
    before = json_of(three_precisions / "colors/1/certificate.json")["precisions"]
    names = ["--precision", "int8", "fp32"]
    status, _, _ = run("verify", "colors", *arguments, *names, "--images", colors / "red")
    after = json_of(three_precisions / "colors/1/certificate.json")["precisions"]
    assert status == 0
    assert after["fp16"] == before["fp16"]
    for name in ("int8", "fp32"):
        section = after[name]["execution_providers"]["CPUExecutionProvider"]
        assert section["parity"]["real_images"] == 4
        assert section["accuracy"]["images"] == 12
    assert after["int8"]["calibration"] == before["int8"]["calibration"]
    assert_hashes_agree(three_precisions)


def test_verify_fails_on_one_changed_graph_of_three(run, three_precisions):
    path = three_precisions / "colors/1/model.int8.onnx"
    proto = onnx.load(path)
    weight = next(t for t in proto.graph.initializer if t.name.endswith("fc.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * -3, weight.name))
    onnx.save(proto, path)
    status, out, err = run("verify", "colors", "--weights-dir", three_precisions)
    assert status == 1
    assert "torch against int8" in out
    assert "the graph does not compute what the checkpoint computes: logits differs by" in err


def test_evaluate_records_the_accuracy_of_every_precision_with_the_datas_hash(
    run, three_precisions, colors
):
    arguments = ["evaluate", "colors", colors, "--weights-dir", three_precisions]
    status, out, err = run(*arguments, "--record")
    assert (status, err) == (0, "")
    results = json.loads(out)
    assert list(results) == ["fp32", "int8", "fp16"]
    precisions = json_of(three_precisions / "colors/1/certificate.json")["precisions"]
    for name, result in results.items():
        providers = precisions[name]["execution_providers"]
        assert providers["CPUExecutionProvider"]["accuracy"] == result
        assert result["sha256"] == data_sha256(image_folder(colors)[0])
    assert 0 <= results["int8"]["agreement_with_fp32"] <= 1
    assert_hashes_agree(three_precisions)


def test_evaluate_refuses_a_graph_that_is_not_the_certified_file(run, three_precisions, colors):
    path = three_precisions / "colors/1/model.fp16.onnx"
    path.write_bytes(path.read_bytes() + b" ")
    status, _, err = run("evaluate", "colors", colors, "--weights-dir", three_precisions)
    assert status == 2
    assert "model.fp16.onnx is not the file that the certificate is about" in err


@pytest.fixture(params=["verify", "evaluate"])
def measurement(request, classifier_weights, colors) -> list:
    photos = [colors] if request.param == "evaluate" else []
    return [request.param, "colors", *photos, "--weights-dir", classifier_weights]


def test_a_precision_that_is_not_there_is_refused(run, measurement):
    status, out, err = run(*measurement, "--precision", "fp32", "int8")
    assert (status, out, err) == (2, "", "vt-export: colors 1 has no int8 graph\n")


def test_a_gpu_that_onnx_runtime_does_not_see_is_refused_in_one_sentence(
    run, measurement, monkeypatch
):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    status, out, err = run(*measurement, "--execution-provider", "cuda")
    assert (status, out) == (2, "")
    assert err.startswith("vt-export: ONNX Runtime has no CUDAExecutionProvider here")
    assert err.count("\n") == 1


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

    monkeypatch.setattr("model_export.comparison.evaluation.classification_accuracy", accuracy)
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
    assert files == {"last.pt", "metrics.csv", "learning_curve.png", "checkpoint.safetensors"}
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
