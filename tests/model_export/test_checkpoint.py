"""Checkpoints are read without executing code, and every key must fit."""

import os
import pickle
import re
import zipfile
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from model_export import checkpoint
from model_export.errors import ExportError, InvalidCheckpoint
from model_export.models.registry import build, dimensions_of
from model_export.models.resnet import ResNet
from tests.model_export.networks import randomised


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    return randomised(small_network(), seed=7).state_dict()


@pytest.fixture
def save(tmp_path):
    def save(content, name="weights.pth") -> Path:
        path = tmp_path / name
        if path.suffix == ".safetensors":
            safetensors.torch.save_file(content, path)
        else:
            torch.save(content, path)
        return path

    return save


def loaded(path: Path) -> dict[str, torch.Tensor]:
    network = small_network()
    checkpoint.load(network, checkpoint.read(path))
    return network.state_dict()


def assert_equal(given, expected):
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["a.pt", "a.pth", "a.safetensors"])
def test_tensors_by_name_load_from_each_format(save, trained, name):
    assert_equal(loaded(save(trained, name)), trained)


def test_files_from_before_the_zip_format_load_too(tmp_path, trained):
    torch.save(trained, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert_equal(loaded(tmp_path / "old.pth"), trained)


@pytest.mark.parametrize("wrapper", checkpoint.WRAPPERS)
def test_a_training_wrapper_is_opened(save, trained, wrapper):
    content = {"epoch": 3, wrapper: trained, "optimizer": {"lr": 0.1}}
    assert_equal(loaded(save(content)), trained)


def test_nested_wrappers_are_opened(save, trained):
    assert_equal(loaded(save({"model": {"state_dict": trained, "epoch": 1}})), trained)


@pytest.mark.parametrize("averaged", ["ema", "model_ema", "state_dict_ema"])
@pytest.mark.parametrize("raw", ["state_dict", "model_state_dict", "model"])
def test_averaged_weights_are_preferred_to_raw_ones(save, trained, averaged, raw):
    zeros = {key: torch.zeros_like(value) for key, value in trained.items()}
    assert_equal(loaded(save({raw: zeros, averaged: trained})), trained)


@pytest.mark.parametrize(
    "prefix",
    [*checkpoint.PREFIXES, "module._orig_mod.", "_orig_mod.module.", "model.backbone.trunk."],
)
def test_a_prefix_that_all_keys_have_is_dropped(save, trained, prefix):
    prefixed = {f"{prefix}{key}": value for key, value in trained.items()}
    assert_equal(loaded(save(prefixed)), trained)


def test_the_counter_of_an_averaged_model_is_ignored(save, trained):
    averaged = {f"module.{key}": value for key, value in trained.items()}
    assert_equal(loaded(save({**averaged, "n_averaged": torch.tensor(9)})), trained)


def test_a_prefix_that_only_some_keys_have_is_kept(save, trained):
    mixed = {**trained, "module.extra": torch.zeros(1)}
    with pytest.raises(InvalidCheckpoint, match=r"unexpected: module\.extra"):
        loaded(save(mixed))


def test_the_counters_of_batch_norms_may_be_missing(save, trained):
    del trained["1.num_batches_tracked"]
    assert loaded(save(trained)).keys() >= trained.keys()


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn]
)
def test_other_float_types_are_accepted(save, trained, dtype):
    given = {k: v.to(dtype) if v.is_floating_point() else v for k, v in trained.items()}
    expected = {k: v.float() if v.is_floating_point() else v for k, v in given.items()}
    assert_equal(loaded(save(given)), expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.bool, torch.complex64])
def test_weights_that_are_not_floating_point_are_refused(save, trained, dtype):
    trained["0.weight"] = trained["0.weight"].to(dtype)
    with pytest.raises(InvalidCheckpoint, match=rf"wrong type: 0\.weight {dtype}"):
        loaded(save(trained))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_numbers_that_are_not_finite_are_refused_by_key(save, trained, key, value):
    trained[key].view(-1)[1] = value
    with pytest.raises(InvalidCheckpoint, match=f"not finite: {re.escape(key)}"):
        loaded(save(trained))


def test_a_number_beyond_float32_is_refused(save, trained):
    trained["2.bias"] = trained["2.bias"].double() * 1e300
    with pytest.raises(InvalidCheckpoint, match=r"not finite: 2\.bias"):
        loaded(save(trained))


def test_every_missing_unexpected_and_misshapen_key_is_listed(save, trained):
    del trained["0.bias"]
    trained["extra.weight"] = torch.zeros(1)
    trained["2.weight"] = torch.zeros(3, 4)
    with pytest.raises(InvalidCheckpoint) as refusal:
        loaded(save(trained))
    assert str(refusal.value).splitlines()[1:] == [
        "  missing: 0.bias",
        "  unexpected: extra.weight",
        "  wrong shape: 2.weight [3, 4], not [2, 4]",
    ]


def test_a_refused_checkpoint_changes_nothing(save, trained):
    network = small_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    del trained["0.bias"]
    with pytest.raises(InvalidCheckpoint):
        checkpoint.load(network, checkpoint.read(save(trained)))
    assert_equal(network.state_dict(), before)


def test_long_lists_stop_after_twenty_keys_with_a_count_of_the_rest(save):
    names = [f"layer{index:02}" for index in range(23)]
    network = nn.ParameterDict({name: torch.zeros(1) for name in names})
    given = {f"other{index}": torch.zeros(1) for index in range(20)}
    with pytest.raises(InvalidCheckpoint) as refusal:
        checkpoint.load(network, checkpoint.read(save(given)))
    lines = str(refusal.value).splitlines()
    assert [f"  missing: {name}" for name in names[:20]] == lines[1:21]
    assert lines[21] == "  missing: and 3 more"
    assert sum("unexpected: " in line for line in lines) == 20
    assert len(lines) == 1 + 21 + 20


def test_the_refusal_of_a_foreign_visual_transformer_explains_the_reason(save):
    dimensions = dimensions_of("vt_resnet18", classes=2)
    with torch.device("meta"):
        network = build(dimensions)
    foreign = {"tokenizer.conv.weight": torch.zeros(1), "tokenizer.conv.bias": torch.zeros(1)}
    with pytest.raises(InvalidCheckpoint) as refusal:
        checkpoint.load_model(network, checkpoint.read(save(foreign)), dimensions)
    text = str(refusal.value)
    assert "unexpected: tokenizer.conv.bias" in text
    assert "cannot be loaded by renaming keys" in text


def test_the_refusal_of_a_plain_resnet_does_not_mention_visual_transformers(save):
    dimensions = dimensions_of("resnet18", classes=2)
    with torch.device("meta"):
        network = build(dimensions)
    given = checkpoint.read(save({"a": torch.zeros(1)}))
    with pytest.raises(InvalidCheckpoint) as refusal:
        checkpoint.load_model(network, given, dimensions)
    assert "renaming" not in str(refusal.value)


@pytest.fixture(scope="module")
def torchvision_resnet18() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return randomised(ResNet(18, classes=1000)).state_dict()


def trunk_of(model: str) -> ResNet:
    network = build(dimensions_of(model, classes=2))
    return network.trunk if model.startswith("vt_resnet") else network.backbone


@pytest.mark.parametrize("model", ["vt_resnet18", "fpn_resnet18", "vt_fpn_resnet18"])
def test_a_whole_torchvision_resnet_loads_into_a_trunk(save, torchvision_resnet18, model):
    trunk = trunk_of(model)
    checkpoint.load_backbone(trunk, checkpoint.read(save(torchvision_resnet18)))
    own = trunk.state_dict()
    assert_equal(own, {key: torchvision_resnet18[key] for key in own})
    assert any(key.startswith("layer4.") for key in own) == ("fpn" in model)


def test_layer4_may_be_missing_only_where_visual_transformers_replace_it(
    save, torchvision_resnet18
):
    left_out = ("layer4.", "fc.")
    stages = {k: v for k, v in torchvision_resnet18.items() if not k.startswith(left_out)}
    given = checkpoint.read(save(stages))
    checkpoint.load_backbone(trunk_of("vt_resnet18"), given)
    with pytest.raises(InvalidCheckpoint, match=r"missing: layer4\.0\.bn1\.bias"):
        checkpoint.load_backbone(trunk_of("fpn_resnet18"), given)


def test_a_wrapped_backbone_loads(save, torchvision_resnet18):
    prefixed = {f"module.backbone.{key}": value for key, value in torchvision_resnet18.items()}
    trunk = trunk_of("vt_resnet18")
    checkpoint.load_backbone(trunk, checkpoint.read(save({"state_dict": prefixed})))
    assert torch.equal(trunk.conv1.weight, torchvision_resnet18["conv1.weight"])


def test_a_backbone_of_another_depth_is_refused(save):
    with torch.device("meta"):
        wanted = ResNet(34, classes=None, stages=3).state_dict()
    given = {key: torch.zeros(value.shape) for key, value in wanted.items()}
    with pytest.raises(InvalidCheckpoint, match=r"unexpected: layer1\.2\.bn1\.bias"):
        checkpoint.load_backbone(trunk_of("vt_resnet18"), checkpoint.read(save(given)))


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.98])
def test_a_truncated_file_is_refused(save, trained, name, share):
    path = save(trained, name)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InvalidCheckpoint, match=r"truncated|not a complete safetensors file"):
        checkpoint.read(path)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"these are not weights\n", b"\x00" * 64, b"\xff" * 64, b"PK\x03\x04" + b"\x00" * 40],
    ids=["empty", "text", "zeros", "ones", "start of a zip"],
)
def test_a_file_without_a_checkpoint_is_refused_by_name(tmp_path, suffix, content):
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidCheckpoint, match=re.escape(str(path))):
        checkpoint.read(path)


class Hostile:
    """Unpickling it would create a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "old format"])
def test_a_hostile_pickle_is_refused_and_not_executed(tmp_path, zipped):
    path, target = tmp_path / "hostile.pth", tmp_path / "executed"
    torch.save({"state_dict": {"a": Hostile(target)}}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidCheckpoint, match="objects that would execute code"):
        checkpoint.read(path)
    assert not target.exists()


def test_unpickling_the_hostile_file_does_execute_it(tmp_path):
    """Otherwise the test above could not fail."""
    pickle.loads(pickle.dumps(Hostile(tmp_path / "executed")))  # noqa: S301
    assert (tmp_path / "executed").is_dir()


def test_a_bare_pickle_is_refused_and_not_executed(tmp_path):
    path, target = tmp_path / "hostile.pt", tmp_path / "executed"
    path.write_bytes(pickle.dumps(Hostile(target)))
    with pytest.raises(InvalidCheckpoint):
        checkpoint.read(path)
    assert not target.exists()


def test_a_compressed_archive_is_refused(save, trained, tmp_path):
    packed = tmp_path / "packed.pt"
    with (
        zipfile.ZipFile(save(trained)) as stored,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name in stored.namelist():
            archive.writestr(name, stored.read(name))
    with pytest.raises(InvalidCheckpoint, match="compressed archive"):
        checkpoint.read(packed)


@pytest.mark.parametrize("name", ["weights.bin", "weights.onnx", "weights", "weights.pth.zip"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InvalidCheckpoint, match=r"unsupported suffix; use \.pt, \.pth"):
        checkpoint.read(tmp_path / name)


def test_a_folder_or_a_missing_file_is_refused(tmp_path):
    (tmp_path / "folder.pt").mkdir()
    for name in ("folder.pt", "nothing.pt"):
        with pytest.raises(InvalidCheckpoint, match="does not exist or is not a file"):
            checkpoint.read(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        {},
        [torch.zeros(1)],
        torch.zeros(1),
        {"state_dict": {}},
        {"epoch": 3},
        {"weight": torch.zeros(1), "comment": "x"},
        {"weight": [1.0, 2.0]},
        {"weight": torch.zeros(2, 2).to_sparse()},
        {"weight": torch.zeros(2, device="meta")},
    ],
    ids=[
        "empty",
        "list",
        "tensor",
        "empty wrapper",
        "no tensors",
        "text",
        "numbers",
        "sparse",
        "no storage",
    ],
)
def test_contents_other_than_plain_tensors_by_name_are_refused(save, content):
    with pytest.raises(InvalidCheckpoint, match=r"contains (no tensors|values that are)"):
        checkpoint.read(save(content))


@pytest.fixture(scope="module")
def vt_resnet18():
    torch.manual_seed(0)
    dimensions = dimensions_of("vt_resnet18", classes=3, heads=4)
    return randomised(build(dimensions)), dimensions


def test_a_written_checkpoint_is_read_back_with_its_dimensions(vt_resnet18, tmp_path):
    network, dimensions = vt_resnet18
    path = tmp_path / "new folder" / "checkpoint.safetensors"
    checkpoint.write(path, network, dimensions, {"seed": "0"}, half=False)
    stored = checkpoint.read(path)
    assert stored.dimensions == dimensions
    assert stored.metadata["seed"] == "0"
    again = build(dimensions)
    checkpoint.load_model(again, stored, dimensions)
    assert_equal(again.state_dict(), network.state_dict())


def test_half_precision_is_written_once_and_is_exact_from_then_on(vt_resnet18, tmp_path):
    network, dimensions = vt_resnet18
    first, second = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    checkpoint.write(first, network, dimensions, {})
    again = build(dimensions)
    checkpoint.load_model(again, checkpoint.read(first), dimensions)
    checkpoint.write(second, again, dimensions, {})
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size < 24e6


def test_weights_beyond_half_precision_are_refused_and_nothing_is_written(vt_resnet18, tmp_path):
    network, dimensions = build(vt_resnet18[1]), vt_resnet18[1]
    with torch.no_grad():
        network.fc.bias[0] = 1e5
    with pytest.raises(InvalidCheckpoint, match=r"overflow: fc\.bias"):
        checkpoint.write(tmp_path / "a.safetensors", network, dimensions, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["no json", "[]", '{"family": "vt_resnet"}', "3"])
def test_invalid_dimensions_are_refused(tmp_path, text):
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(1)}, path, {"dimensions": text})
    stored = checkpoint.read(path)
    with pytest.raises(ExportError):
        _ = stored.dimensions


def test_a_foreign_file_has_no_dimensions(save, trained):
    assert checkpoint.read(save(trained)).dimensions is None
