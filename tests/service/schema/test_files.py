from pathlib import Path

import pytest

from service.errors import InvalidEntry
from service.schema.files import read_certificate, read_certified, read_contract
from tests.service.repository_fixture import Json, certify, write_classifier


def test_a_version_that_the_contract_does_not_list_has_no_certificate(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    with pytest.raises(InvalidEntry, match=r"config.json does not list it"):
        read_certificate(folder, read_contract(folder), "2")


def test_an_altered_certificate_is_refused(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    path = folder / "1" / "certificate.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(InvalidEntry, match=r"certificate.json does not have the SHA-256"):
        read_certificate(folder, read_contract(folder), "1")


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
