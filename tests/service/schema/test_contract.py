import json
from pathlib import Path

import pytest

from service.errors import InvalidEntry
from service.schema.contract import Contract
from service.schema.files import read_contract
from service.schema.vocabulary import Task
from tests.service.repository_fixture import (
    Json,
    classification_config,
    segmentation_config,
    with_temperature,
    write_classifier,
    write_config,
    write_segmenter,
    write_versions,
)
from tests.service.token_models import write_token_classifier, write_token_segmenter


def test_a_valid_contract_is_read_and_unknown_keys_are_kept(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    contract = read_contract(folder)
    assert (contract.name, contract.task, list(contract.versions)) == (
        "colour",
        Task.CLASSIFICATION,
        ["1"],
    )
    assert contract.as_read() == json.loads((folder / "config.json").read_text())


def test_changes_to_other_versions_do_not_change_a_versions_contract(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("temperature", [0, -1.0, "warm"])
def test_a_temperature_that_is_not_positive_is_refused(tmp_path: Path, temperature: object) -> None:
    folder = write_classifier(tmp_path)
    path = folder / "config.json"
    path.write_text(json.dumps(with_temperature(json.loads(path.read_text()), temperature)))
    with pytest.raises(InvalidEntry, match="temperature"):
        read_contract(folder)


def test_a_new_temperature_changes_the_contract_of_its_version(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path)
    before = read_contract(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(with_temperature(json.loads(path.read_text()), 1.5)))
    after = read_contract(folder)
    assert (before.versions["1"].temperature, after.versions["1"].temperature) == (1.0, 1.5)
    assert not after.says_the_same_of("1", before)


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
def test_an_invalid_config_is_refused(tmp_path: Path, text: str) -> None:
    folder = write_classifier(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(InvalidEntry, match=r"config\.json is not valid"):
        read_contract(folder)


def test_the_prediction_is_the_output_of_the_task(tmp_path: Path) -> None:
    assert read_contract(write_classifier(tmp_path)).prediction == "logits"
    assert read_contract(write_segmenter(tmp_path)).prediction == "labels"


def test_contracts_read_from_equal_files_are_equal(tmp_path: Path) -> None:
    one = read_contract(write_classifier(tmp_path))
    other = Contract.model_validate(one.as_read())
    assert one.preprocessing.common_size == (8, 8)
    assert one == other
    assert one.as_read() == other.as_read()


def test_the_modules_of_the_tokens_follow_from_the_outputs(tmp_path: Path) -> None:
    classifier = read_contract(write_token_classifier(tmp_path))
    assert classifier.token_modules == {"module_1": 2, "module_2": 2}
    assert classifier.attention_outputs == ["token_attention"]
    segmenter = read_contract(write_token_segmenter(tmp_path))
    assert segmenter.token_modules == {"stride_4": 2, "stride_8": 2}
    assert segmenter.has_tokens
    plain = read_contract(write_segmenter(tmp_path))
    assert not plain.token_modules
    assert not plain.has_tokens
