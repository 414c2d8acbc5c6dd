from pathlib import Path

import pytest
from pydantic import ValidationError

from service.errors import InvalidEntry
from service.schema.certificate import AccuracyRecord, Certificate, Limits, ScaledDecoding
from service.schema.files import read_certificate, read_certified, read_contract
from service.schema.vocabulary import Task
from tests.service.repository_fixture import SELF_TEST, certify, write_classifier


def certificate_of(folder: Path) -> Certificate:
    return read_certificate(folder, read_contract(folder), "1")


def test_nan_becomes_null_when_a_certificate_is_sent(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, note=float("nan"))
    certificate = certificate_of(folder)
    assert certificate.as_read()["note"] is None


def test_a_precision_that_was_not_certified_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = certificate_of(folder)
    with pytest.raises(InvalidEntry, match="lists no int8 graph"):
        certificate.precision("int8")


def test_a_file_that_was_not_certified_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certificate = certificate_of(folder)
    with pytest.raises(InvalidEntry, match=r"lists no SHA-256 for other\.onnx"):
        read_certified(folder, certificate, "other.onnx")


@pytest.mark.parametrize("file", ["../../secret.onnx", "/etc/model.onnx", "a/b.onnx", ".onnx"])
def test_a_certificate_cannot_point_outside_its_folder(tmp_path: Path, file: str) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, precisions={"fp32": {"file": file}})
    with pytest.raises(InvalidEntry, match="file"):
        certificate_of(folder)


@pytest.mark.parametrize("file", ["../checkpoint.safetensors", "/etc/passwd", "a/b", ".hidden"])
@pytest.mark.parametrize("key", ["external_data", "golden_outputs"])
def test_other_files_of_a_precision_lie_in_its_folder(tmp_path: Path, key: str, file: str) -> None:
    folder = write_classifier(tmp_path)
    record = {"file": "model.onnx", "self_test": SELF_TEST}
    value = [file] if key == "external_data" else f"{file}.npz"
    certify(folder, precisions={"fp32": {**record, key: value}})
    with pytest.raises(InvalidEntry, match=key):
        certificate_of(folder)


def test_a_certificate_without_the_optional_keys_has_their_defaults(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    certify(folder, precisions={"fp32": {"file": "model.onnx", "self_test": SELF_TEST}})
    certificate = certificate_of(folder)
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


def test_each_task_has_its_metric() -> None:
    record = AccuracyRecord(data="colours/val", images=1, top1=0.75, miou=0.5)
    assert record.metric(Task.CLASSIFICATION) == 0.75
    assert record.metric(Task.SEGMENTATION) == 0.5


@pytest.mark.parametrize(("agreement", "allowed"), [(1.0, True), (0.995, True), (0.9949, False)])
def test_scaled_decoding_is_measured_against_its_limit(agreement: float, allowed: bool) -> None:
    scaled = ScaledDecoding(
        data="colours/val", sha256="c" * 64, images=10, agreement=agreement, limit=0.995
    )
    objection = "99.49 % of the answers stay the same; at least 99.50 % is required"
    assert scaled.objection == (None if allowed else objection)
