"""Entries are read with suspicion: what was changed after its certificate is refused."""

import hashlib
import json

import pytest

from model_export.entry import artifact
from model_export.errors import InvalidEntry


def test_a_missing_model_or_version_is_refused_with_what_there_is(classifier_weights):
    with pytest.raises(InvalidEntry, match="there is no model shapes"):
        artifact.open_version(classifier_weights, "shapes")
    with pytest.raises(InvalidEntry, match="colors has no version 2; it has 1"):
        artifact.open_version(classifier_weights, "colors", "2")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format_version": 2, "versions": {"1": {}}}', '{"format_version": 1}'],
)
def test_a_contract_that_is_none_is_refused(weights, text):
    (weights / "colors/config.json").write_text(text)
    with pytest.raises(InvalidEntry, match=r"config\.json is (not|no) "):
        artifact.open_version(weights, "colors")


@pytest.mark.parametrize("name", ["model.onnx", "checkpoint.safetensors"])
def test_a_changed_or_missing_file_is_refused_by_name(weights, name):
    version = artifact.open_version(weights, "colors")
    path = version.folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidEntry, match=f"{name} is not the file"):
        version.check_files()
    path.unlink()
    with pytest.raises(InvalidEntry, match=f"{name} is not the file"):
        version.check_files()


def test_a_changed_certificate_is_refused(weights):
    version = artifact.open_version(weights, "colors")
    path = version.folder / "certificate.json"
    path.write_text(path.read_text().replace('"agreement": 1.0', '"agreement": 0.5'))
    with pytest.raises(InvalidEntry, match="was changed after the contract was written"):
        version.certificate()


def test_recording_replaces_the_certificate_and_its_hash_together(weights):
    version = artifact.open_version(weights, "colors")
    before = json.loads((weights / "colors/config.json").read_text())
    artifact.record(version, {**version.certificate(), "note": "measured again"})
    content = (version.folder / "certificate.json").read_bytes()
    after = json.loads((weights / "colors/config.json").read_text())
    assert after["versions"]["1"]["certificate_sha256"] == hashlib.sha256(content).hexdigest()
    assert after["versions"]["1"]["provenance"] == before["versions"]["1"]["provenance"]
    again = artifact.open_version(weights, "colors")
    assert again.certificate()["note"] == "measured again"


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(None, "1"), ({}, "1"), ({"1": {}}, "2"), ({"2": {}, "10": {}}, "11")],
)
def test_the_next_version_is_one_after_the_newest(versions, expected):
    assert artifact.next_version(None if versions is None else {"versions": versions}) == expected
