"""The entries under `weights/`: whole, small enough, and described by the figures they earned."""

from pathlib import Path

import pytest

from model_export.entry.version import open_version

WEIGHTS = Path(__file__).parent.parent / "weights"
NAMES = sorted(path.parent.name for path in WEIGHTS.glob("*/config.json"))
MEGABYTE = 1_000_000


def test_one_model_is_shipped_for_each_task() -> None:
    assert NAMES == ["vt_fpn_camvid", "vt_resnet18_imagenette"]


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_the_one_that_was_certified(name: str) -> None:
    open_version(WEIGHTS, name).check_files()


@pytest.mark.parametrize("name", NAMES)
def test_the_checkpoint_loads_into_the_dimensions_of_the_contract(name: str) -> None:
    version = open_version(WEIGHTS, name)
    assert version.network().training is False


@pytest.mark.parametrize("name", NAMES)
def test_the_model_card_states_the_accuracy_of_the_certificate(name: str) -> None:
    certificate = open_version(WEIGHTS, name).certificate()
    provider = certificate["precisions"]["fp32"]["execution_providers"]["CPUExecutionProvider"]
    accuracy = provider["accuracy"]
    card = (WEIGHTS / name / "README.md").read_text()
    for metric in {"top1", "top5", "miou", "pixel_accuracy"} & accuracy.keys():
        assert f"{100 * accuracy[metric]:.1f} %" in card


def test_a_clone_stays_small() -> None:
    sizes = [path.stat().st_size for path in WEIGHTS.rglob("*") if path.is_file()]
    assert max(sizes) < 60 * MEGABYTE
    assert sum(sizes) < 150 * MEGABYTE
