import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InvalidEntry
from service.schema.certificate import AccuracyRecord, Limits
from service.schema.files import read_certificate, read_certified, read_contract
from service.schema.vocabulary import Task
from tests.service.repository_fixture import (
    SELF_TEST,
    Json,
    classification_config,
    segmentation_config,
    write_classifier,
    write_config,
    write_segmenter,
    write_versions,
)


def test_a_valid_contract_is_read_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    contract = read_contract(folder)
    assert (contract.name, contract.task, list(contract.versions)) == (
        "colour",
        Task.CLASSIFICATION,
        ["1"],
    )
    assert contract.as_read() == json.loads((folder / "config.json").read_text())


def test_what_is_no_number_is_null_when_a_certificate_is_told(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, note=float("nan"))
    certificate = read_certificate(folder, read_contract(folder), "1")
    assert certificate.as_read()["note"] is None


def test_a_version_that_the_contract_does_not_list_has_no_certificate(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    with pytest.raises(InvalidEntry, match=r"config.json does not list it"):
        read_certificate(folder, read_contract(folder), "2")


def test_a_contract_says_the_same_of_a_version_whatever_it_says_of_others(tmp_path: Path) -> None:
    folder = write_versions(tmp_path, "1", "2")
    before = read_contract(folder)
    write_versions(tmp_path, "2", "3", version_policy={"all": {}})
    after = read_contract(folder)
    same = [version for version in "123" if after.says_the_same_of(version, before)]
    assert same == ["2"]
    write_versions(tmp_path, "2", "3", labels=["a", "b", "c"])
    assert not read_contract(folder).says_the_same_of("2", before)


def change(config: Json, path: str, value: object) -> Json:
    *parents, last = path.split(".")
    node = config
    for key in parents:
        node = node[int(key)] if isinstance(node, list) else node[key]
    node[int(last) if isinstance(node, list) else last] = value
    return config


WRONG_CLASSIFICATION = [
    ("name", "other", "names the model other"),
    ("task", "detection", "task"),
    ("format_version", 2, "format_version"),
    ("platform", "tensorrt_plan", "platform"),
    ("max_batch_size", 0, "max_batch_size"),
    ("labels", [], "labels"),
    ("labels", ["red"], "logits has the wrong datatype or shape"),
    ("inputs.0.name", "pixels", "images UINT8"),
    ("inputs.0.datatype", "FP32", "images UINT8"),
    ("inputs.0.datatype", "FLOAT", "datatype"),
    ("inputs.0.shape", [-1, 3, 8, 8], "input's shape"),
    ("inputs.0.shape", [-1, 9, 8, 3], "preprocessing's size"),
    ("outputs.0.name", "scores", "needs the output logits"),
    ("outputs.0.datatype", "FP16", "wrong datatype"),
    ("preprocessing.resize.mode", "stretch", "resize"),
    ("preprocessing.resize.width", 0, "width"),
    ("preprocessing.resize.width", 10**6, "width"),
    ("preprocessing.filter", "nearest", "filter"),
    ("preprocessing.fill", [0, 0, 256], "fill"),
    ("preprocessing_sha256", "0" * 64, "preprocessing does not have the SHA-256"),
    ("dynamic_batching", {}, "max_queue_size"),
]


@pytest.mark.parametrize(("path", "value", "reason"), WRONG_CLASSIFICATION)
def test_a_contract_that_contradicts_itself_is_refused(
    tmp_path: Path, path: str, value: object, reason: str
) -> None:
    folder = write_classifier(tmp_path)
    config = change(json.loads((folder / "config.json").read_text()), path, value)
    if path.startswith("preprocessing."):
        del config["preprocessing_sha256"]
    write_config(folder, config, {"1": b""})
    with pytest.raises(InvalidEntry, match=reason):
        read_contract(folder)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("palette", None, "one colour per label"),
        ("palette", [[0, 0, 0]], "one colour per label"),
        ("outputs.0.datatype", "INT64", "wrong datatype"),
        ("outputs.0.shape", [-1, -1], "wrong datatype or shape"),
    ],
)
def test_a_segmentation_contract_needs_palette_and_labels(
    tmp_path: Path, path: str, value: object, reason: str
) -> None:
    folder = write_segmenter(tmp_path)
    write_config(folder, change(segmentation_config("pixels"), path, value), {"1": b""})
    with pytest.raises(InvalidEntry, match=reason):
        read_contract(folder)


@pytest.mark.parametrize("versions", [{}, {"0": b""}, {"one": b""}, {"../1": b""}])
def test_a_version_is_a_positive_integer(tmp_path: Path, versions: dict[str, bytes]) -> None:
    folder = write_classifier(tmp_path)
    write_config(folder, classification_config("colour"), versions)
    with pytest.raises(InvalidEntry, match="versions"):
        read_contract(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}"])
def test_a_config_that_is_no_contract_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_classifier(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidEntry, match=r"config\.json is not valid"):
        read_contract(folder)


def test_an_altered_certificate_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    path = folder / "1" / "certificate.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidEntry, match=r"certificate.json does not have the SHA-256"):
        read_certificate(folder, read_contract(folder), "1")


def certify(folder: Path, **changes: object) -> None:
    """Change the certificate and let the contract agree to it."""
    path = folder / "1" / "certificate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    write_config(folder, classification_config("colour"), {"1": path.read_bytes()})


@pytest.mark.parametrize("changes", [{"model": "other"}, {"version": "2"}])
def test_a_certificate_of_another_model_is_refused(tmp_path: Path, changes: Json) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, **changes)
    with pytest.raises(InvalidEntry, match="belongs to another model or version"):
        read_certificate(folder, read_contract(folder), "1")


def test_an_altered_graph_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = read_certificate(folder, read_contract(folder), "1")
    (folder / "1" / "model.onnx").write_bytes(b"something else")
    with pytest.raises(InvalidEntry, match=r"model.onnx does not have the SHA-256"):
        read_certified(folder, certificate, "model.onnx")


def test_a_missing_graph_is_refused_without_naming_a_path(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = read_certificate(folder, read_contract(folder), "1")
    (folder / "1" / "model.onnx").unlink()
    with pytest.raises(InvalidEntry) as caught:
        read_certified(folder, certificate, "model.onnx")
    assert str(caught.value) == "model.onnx cannot be read: No such file or directory"


def test_a_precision_that_was_not_certified_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = read_certificate(folder, read_contract(folder), "1")
    with pytest.raises(InvalidEntry, match="lists no int8 graph"):
        certificate.precision("int8")


def test_a_file_that_was_not_certified_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = read_certificate(folder, read_contract(folder), "1")
    with pytest.raises(InvalidEntry, match=r"lists no SHA-256 for other\.onnx"):
        read_certified(folder, certificate, "other.onnx")


@pytest.mark.parametrize("file", ["../../secret.onnx", "/etc/model.onnx", "a/b.onnx", ".onnx"])
def test_a_certificate_cannot_point_outside_its_folder(tmp_path: Path, file: str) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, precisions={"fp32": {"file": file}})
    with pytest.raises(InvalidEntry, match="file"):
        read_certificate(folder, read_contract(folder), "1")


@pytest.mark.parametrize("file", ["../checkpoint.safetensors", "/etc/passwd", "a/b", ".hidden"])
@pytest.mark.parametrize("key", ["external_data", "golden_outputs"])
def test_a_precisions_other_files_lie_in_its_folder(tmp_path: Path, key: str, file: str) -> None:
    folder = write_classifier(tmp_path)
    record = {"file": "model.onnx", "self_test": SELF_TEST}
    value = [file] if key == "external_data" else f"{file}.npz"
    certify(folder, precisions={"fp32": {**record, key: value}})
    with pytest.raises(InvalidEntry, match=key):
        read_certificate(folder, read_contract(folder), "1")


def test_a_certificate_without_the_optional_keys_has_their_defaults(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, precisions={"fp32": {"file": "model.onnx", "self_test": SELF_TEST}})
    certificate = read_certificate(folder, read_contract(folder), "1")
    record = certificate.precision("fp32")
    assert (record.external_data, record.limits) == ([], Limits())
    assert record.accuracies("CPUExecutionProvider") == []
    assert certificate.golden_outputs("fp32") == "golden.npz"


@pytest.mark.parametrize("value", [-0.1, 1.1, 99.0, float("inf")])
def test_an_accuracy_is_a_share(value: float) -> None:
    with pytest.raises(ValidationError, match="top1"):
        AccuracyRecord(data="colours/val", images=1, top1=value)


def test_an_accuracy_that_is_not_a_number_was_not_measured() -> None:
    record = AccuracyRecord(data="colours/val", images=1, top1=float("nan"))
    assert record.metric(Task.CLASSIFICATION) is None
