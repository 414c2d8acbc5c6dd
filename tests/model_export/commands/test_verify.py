"""`verify` compares graphs with their checkpoint and records the figures on request."""

import json

import onnx
from onnx import numpy_helper

from model_export.entry.version import open_version
from tests.model_export.files import assert_certificate_is_listed, json_of


def test_a_version_passes_on_its_examples_and_is_not_changed(run, weights):
    before = (weights / "colors/1/certificate.json").read_bytes()
    status, out, err = run("verify", "colors", "--weights-dir", weights)
    assert (status, err) == (0, "")
    assert "3 photos, 4 random images" in out
    assert (weights / "colors/1/certificate.json").read_bytes() == before


def test_a_changed_graph_fails_with_status_1_and_numbers(run, weights):
    path = weights / "colors/1/model.onnx"
    proto = onnx.load(path)
    bias = next(t for t in proto.graph.initializer if t.name.endswith("fc.bias"))
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 1, bias.name))
    onnx.save(proto, path)
    status, out, err = run("verify", "colors", "--weights-dir", weights)
    assert status == 1
    assert "logits: largest difference" in out
    assert "the graph's outputs differ from the checkpoint's: logits differs by" in err


def test_a_graph_with_equal_outputs_and_other_bytes_is_refused(run, weights):
    path = weights / "colors/1/model.onnx"
    proto = onnx.load(path)
    proto.doc_string = "harmless"
    onnx.save(proto, path)
    status, _, err = run("verify", "colors", "--weights-dir", weights)
    assert status == 2
    assert "model.onnx is missing or differs from the certified file" in err


def test_other_photos_can_be_chosen(run, weights, colors, tmp_path):
    status, out, _ = run("verify", "colors", "--weights-dir", weights, "--images", colors / "red")
    assert status == 0
    assert "4 photos" in out
    (tmp_path / "empty").mkdir()
    status, _, err = run(
        "verify", "colors", "--weights-dir", weights, "--images", tmp_path / "empty"
    )
    assert status == 2
    assert "contains no photos" in err


def test_recording_updates_the_certificate_and_its_hash_in_the_contract(run, weights, colors):
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
    assert_certificate_is_listed(weights)

    status, _, _ = run("verify", "colors", *arguments, "--images", colors / "red")
    section = json_of(certificate)["precisions"]["fp32"]["execution_providers"]
    assert status == 0
    assert section["CPUExecutionProvider"]["parity"]["real_images"] == 4
    assert section["CPUExecutionProvider"]["accuracy"] == accuracy
    assert_certificate_is_listed(weights)
    open_version(weights, "colors").check_files()


def test_all_precisions_are_compared_unless_some_are_chosen(run, quantized_weights):
    arguments = ["verify", "colors", "--weights-dir", quantized_weights]
    status, out, err = run(*arguments)
    assert (status, err) == (0, "")
    compared = [line.split()[2] for line in out.splitlines() if line.startswith("torch against")]
    assert compared == ["fp32", "int8", "fp16"]
    status, out, _ = run(*arguments, "--precision", "fp16")
    assert status == 0
    assert out.startswith("torch against fp16 (CPUExecutionProvider)")
    assert out.count("torch against") == 1


def test_recording_keeps_the_other_figures_of_the_certificate(run, three_precisions, colors):
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
    assert_certificate_is_listed(three_precisions)


def test_one_changed_graph_of_three_fails(run, three_precisions):
    path = three_precisions / "colors/1/model.int8.onnx"
    proto = onnx.load(path)
    weight = next(t for t in proto.graph.initializer if t.name.endswith("fc.weight"))
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * -3, weight.name))
    onnx.save(proto, path)
    status, out, err = run("verify", "colors", "--weights-dir", three_precisions)
    assert status == 1
    assert "torch against int8" in out
    assert "the graph's outputs differ from the checkpoint's: logits differs by" in err
