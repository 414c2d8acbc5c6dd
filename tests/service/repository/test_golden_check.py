"""A graph must give on this machine the outputs that its certificate states."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from service.errors import InvalidEntry
from service.repository.golden_check import GoldenInput, compare, read_golden
from service.repository.repository import ModelRepository
from service.schema.certificate import SelfTestTolerance
from service.schema.files import read_certificate, read_contract
from service.schema.vocabulary import ModelState, Task
from service.telemetry.metrics import PrometheusMetrics
from tests.service.conftest import version_loader
from tests.service.repository_fixture import (
    classification_config,
    classification_graph,
    golden_arrays,
    segmentation_config,
    segmentation_graph,
    write_entry,
    write_quantized_classifier,
    write_segmenter,
)

TOLERANCE = SelfTestTolerance(max_relative_difference=1e-3, agreement=0.999)
IMAGE = np.zeros((2, 2, 3), np.uint8)


def load(path: Path) -> tuple[ModelRepository, CollectorRegistry]:
    metrics = PrometheusMetrics()
    repository = ModelRepository(path, version_loader(metrics), metrics.models)
    asyncio.run(repository.load_all())
    return repository, metrics.registry


def sample(registry: CollectorRegistry, name: str, model: str) -> float | None:
    return registry.get_sample_value(name, {"model": model, "version": "1"})


def test_a_graph_with_the_certified_outputs_serves(tmp_path: Path) -> None:
    write_entry(tmp_path, classification_config("colour"), classification_graph())
    repository, registry = load(tmp_path)
    assert repository.get("colour").state is ModelState.READY
    assert sample(registry, "vt_selftest_ok", "colour") == 1
    assert sample(registry, "vt_selftest_agreement_ratio", "colour") == 1
    assert sample(registry, "vt_selftest_max_abs_error", "colour") < 1e-4


def test_a_graph_with_other_outputs_is_refused_while_the_other_model_serves(tmp_path: Path) -> None:
    write_entry(tmp_path, classification_config("colour"), classification_graph(0.0501))
    write_segmenter(tmp_path)
    repository, registry = load(tmp_path)
    entry = repository.get("colour")
    assert entry.state is ModelState.UNAVAILABLE
    assert entry.reason is not None
    assert entry.reason.startswith("the self-test failed: an output differs by 2.0e-03")
    assert sample(registry, "vt_selftest_ok", "colour") == 0
    assert repository.get("pixels").state is ModelState.READY


def test_a_mask_that_differs_from_the_certified_one_is_refused(tmp_path: Path) -> None:
    config = segmentation_config("pixels")
    golden = golden_arrays(config)
    golden["labels_0"][:4] = 1
    write_entry(tmp_path, config, segmentation_graph(), golden=golden)
    reason = load(tmp_path)[0].get("pixels").reason
    assert reason == (
        "the self-test failed: 93.75% of the answers match the certificate; "
        "at least 99.90% is required"
    )


def test_a_changed_file_of_golden_inputs_is_refused_by_its_hash(tmp_path: Path) -> None:
    folder = write_segmenter(tmp_path)
    path = folder / "1" / "golden.npz"
    path.write_bytes(path.read_bytes() + b" ")
    reason = load(tmp_path)[0].get("pixels").reason
    assert reason == "golden.npz does not have the SHA-256 that certificate.json states"


@pytest.mark.parametrize(
    ("golden", "expected"),
    [
        ({}, "contains no golden inputs"),
        ({"image_0": IMAGE}, "does not contain one output per golden input"),
        ({"image_0": IMAGE, "labels_0": np.array([None])}, "cannot be read as arrays"),
    ],
    ids=["empty", "without an output", "with a pickled object"],
)
def test_a_file_without_valid_golden_inputs_is_refused(
    tmp_path: Path, golden: dict, expected: str
) -> None:
    write_entry(tmp_path, segmentation_config("pixels"), segmentation_graph(), golden=golden)
    assert load(tmp_path)[0].get("pixels").reason == f"golden.npz {expected}"


def test_each_precision_has_its_own_outputs_for_the_common_inputs(
    tmp_path: Path,
) -> None:
    folder = write_quantized_classifier(tmp_path)
    contract = read_contract(folder)
    certificate = read_certificate(folder, contract, "1")
    fp32 = read_golden(folder, contract, certificate, "fp32")
    int8 = read_golden(folder, contract, certificate, "int8")
    for ours, theirs in zip(int8, fp32, strict=True):
        assert (ours.image == theirs.image).all()
        assert ours.expected == pytest.approx(theirs.expected * 1.01)


def test_outputs_that_do_not_belong_to_the_inputs_are_refused(tmp_path: Path) -> None:
    write_quantized_classifier(tmp_path, golden_outputs={"logits_0": np.zeros(3, np.float32)})
    reason = load(tmp_path)[0].get("colour").reason
    assert reason == "golden.int8.npz does not contain one output per golden input"


def test_an_output_of_nan_fails() -> None:
    golden = [GoldenInput(IMAGE, np.array([1.0, 2.0], np.float32))]
    result = compare(Task.CLASSIFICATION, golden, [np.array([np.nan, 2.0], np.float32)])
    assert result.failure(TOLERANCE) is not None


def test_an_output_of_another_shape_is_refused() -> None:
    golden = [GoldenInput(IMAGE, np.zeros((2, 2), np.uint8))]
    with pytest.raises(InvalidEntry, match=r"an output is \[2, 3\], not \[2, 2\]"):
        compare(Task.SEGMENTATION, golden, [np.zeros((2, 3), np.uint8)])


def test_another_top_class_fails_even_within_the_tolerance() -> None:
    golden = [GoldenInput(IMAGE, np.array([1.0, 1.0001], np.float32))]
    result = compare(Task.CLASSIFICATION, golden, [np.array([1.0001, 1.0], np.float32)])
    assert result.agreement == 0
    assert "0.00% of the answers" in str(result.failure(TOLERANCE))
