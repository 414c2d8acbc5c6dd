"""A version is refused if its contract, certificate or files were changed or are missing."""

import pytest

from model_export.entry.version import next_version, open_version
from model_export.errors import InvalidEntry


def test_a_missing_model_or_version_is_refused(classifier_weights):
    with pytest.raises(InvalidEntry, match="model shapes not found in"):
        open_version(classifier_weights, "shapes")
    with pytest.raises(InvalidEntry, match="colors has no version 2; available: 1"):
        open_version(classifier_weights, "colors", "2")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"format_version": 2, "versions": {"1": {}}}', '{"format_version": 1}'],
)
def test_an_invalid_contract_is_refused(weights, text):
    (weights / "colors/config.json").write_text(text)
    with pytest.raises(InvalidEntry, match=r"config\.json is not "):
        open_version(weights, "colors")


@pytest.mark.parametrize("name", ["model.onnx", "checkpoint.safetensors"])
def test_a_changed_or_missing_file_is_refused_by_name(weights, name):
    version = open_version(weights, "colors")
    path = version.folder / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(InvalidEntry, match=f"{name} is missing or differs"):
        version.check_files()
    path.unlink()
    with pytest.raises(InvalidEntry, match=f"{name} is missing or differs"):
        version.check_files()


def test_a_changed_certificate_is_refused(weights):
    version = open_version(weights, "colors")
    path = version.folder / "certificate.json"
    path.write_text(path.read_text().replace('"agreement": 1.0', '"agreement": 0.5'))
    with pytest.raises(InvalidEntry, match=r"was changed after config\.json was written"):
        version.certificate()


@pytest.mark.parametrize(
    ("versions", "expected"),
    [(None, "1"), ({}, "1"), ({"1": {}}, "2"), ({"2": {}, "10": {}}, "11")],
)
def test_the_next_version_is_one_after_the_newest(versions, expected):
    assert next_version(None if versions is None else {"versions": versions}) == expected
