"""Read checkpoints without executing anything, account for every key, write our own."""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from model_export.errors import InvalidCheckpoint
from model_export.models.registry import Dimensions
from model_export.models.resnet import ResNet

WRAPPERS = ("ema", "model_ema", "state_dict_ema", "state_dict", "model_state_dict", "model")
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "trunk.")
PICKLED_SUFFIXES = (".pt", ".pth")
SUFFIXES = (*PICKLED_SUFFIXES, ".safetensors")
_LISTED_KEYS = 20
_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")
_STRUCTURE_HINT = (
    "Re-implementations of Visual Transformers found elsewhere differ in structure (groups, "
    "biases, widths), so their checkpoints cannot be loaded by renaming keys."
)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by key, and the text that was stored beside them."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def dimensions(self) -> Dimensions | None:
        """The model's dimensions, where the file says them."""
        text = self.metadata.get("dimensions")
        try:
            return None if text is None else Dimensions.from_dict(json.loads(text))
        except ValueError as error:
            raise InvalidCheckpoint(f"{self.path} names no dimensions: {error}") from error


def read(path: Path) -> Checkpoint:
    """Read a `.pt`, `.pth` or `.safetensors` file; nothing in it is executed.

    Training wrappers are opened (`WRAPPERS`, averaged weights before raw ones).

    Raises:
        InvalidCheckpoint: no such file, another format, truncated, or not tensors by name.
    """
    if not path.is_file():
        raise InvalidCheckpoint(f"there is no checkpoint {path}")
    if path.suffix not in SUFFIXES:
        raise InvalidCheckpoint(f"{path} is none of {', '.join(SUFFIXES)}")
    if path.suffix in PICKLED_SUFFIXES:
        return Checkpoint(path, _tensors_of(path, _read_pickled(path)))
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Checkpoint(path, tensors, file.metadata() or {})
    except Exception as error:
        raise InvalidCheckpoint(
            f"{path} is not a whole safetensors file: {_first_line(error)}"
        ) from error


def _read_pickled(path: Path) -> Any:
    _refuse_compressed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidCheckpoint(
            f"{path} cannot be read as tensors alone (truncated, not a PyTorch file, or with "
            f"objects that would execute code): {_first_line(error)}"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """PyTorch stores its archives uncompressed; a compressed one may unpack to anything."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(info.compress_type != zipfile.ZIP_STORED for info in archive.filelist)
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # an old-style or broken file: `torch.load` says what it is
    if compressed:
        raise InvalidCheckpoint(f"{path} is a compressed archive, which PyTorch never writes")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    for _ in range(len(WRAPPERS)):  # wrappers may be nested
        inner = _unwrapped(content)
        if inner is content:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise InvalidCheckpoint(f"{path} holds no tensors by name, but {type(content).__name__}")
    strangers = [str(key) for key, value in content.items() if not _is_plain(value)]
    if strangers:
        raise InvalidCheckpoint(
            f"{path} holds more than tensors, and none of {', '.join(WRAPPERS)}:"
            + _listing("not a plain tensor", strangers)
        )
    return {str(key): value for key, value in content.items()}


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers in memory: not sparse, quantized or without storage."""
    if not isinstance(value, Tensor) or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def _unwrapped(content: Any) -> Any:
    if isinstance(content, Mapping):
        for key in WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return content[key]
    return content


def load(network: nn.Module, checkpoint: Checkpoint, unused: re.Pattern[str] | None = None) -> None:
    """Load parameters and buffers, every key accounted for but those that match `unused`.

    Raises:
        InvalidCheckpoint: keys are missing, unexpected, of the wrong shape or type, or hold
            numbers that are not finite. Nothing was loaded.
    """
    own: dict[str, Tensor] = network.state_dict()
    given = _without_prefixes(checkpoint.tensors, own.keys())
    if unused is not None:
        own, given = (
            {key: value for key, value in tensors.items() if not unused.match(key)}
            for tensors in (own, given)
        )
    shared = own.keys() & given.keys()
    faults = {
        "missing": _sorted(own.keys() - given.keys()),
        "unexpected": _sorted(given.keys() - own.keys()),
        "wrong shape": [
            f"{key} {list(given[key].shape)}, not {list(own[key].shape)}"
            for key in own
            if key in shared and given[key].shape != own[key].shape
        ],
        "wrong type": [
            f"{key} {given[key].dtype}"
            for key in own
            if key in shared and own[key].is_floating_point() != given[key].is_floating_point()
        ],
    }
    if not any(faults.values()):
        faults["not finite"] = [key for key in own if key in shared and not _finite(given[key])]
    if any(faults.values()):
        listing = "".join(_listing(fault, keys) for fault, keys in faults.items() if keys)
        raise InvalidCheckpoint(f"{checkpoint.path} does not fit the model:{listing}")
    network.load_state_dict(given, strict=False)


def load_model(network: nn.Module, checkpoint: Checkpoint, dimensions: Dimensions) -> None:
    """`load` for a whole model, with a word on foreign checkpoints where that may be the cause."""
    try:
        load(network, checkpoint)
    except InvalidCheckpoint as error:
        hint = f"\n{_STRUCTURE_HINT}" if dimensions.uses_tokens else ""
        raise InvalidCheckpoint(f"{error}{hint}") from error


def load_backbone(trunk: ResNet, checkpoint: Checkpoint) -> None:
    """Load a torchvision ResNet: `fc`, and `layer4` where VT replaces it, stay out."""
    stages_left_out = "".join(rf"|layer{stage}" for stage in range(trunk.stages + 1, 5))
    load(trunk, checkpoint, unused=re.compile(rf"^(fc{stages_left_out})\."))


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float()).all())  # not every type knows `isfinite`


def _sorted(keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not _COUNTERS.search(key))


def _without_prefixes(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Strip a wrapper's prefix as long as all keys have it and none is the model's own."""
    given = {key: value for key, value in tensors.items() if key != "n_averaged"}
    while given and not own & given.keys():
        prefix = next((p for p in PREFIXES if all(key.startswith(p) for key in given)), None)
        if prefix is None:
            break
        given = {key.removeprefix(prefix): value for key, value in given.items()}
    return given


def _listing(fault: str, keys: list[str]) -> str:
    more = len(keys) - _LISTED_KEYS
    lines = [f"\n  {fault}: {key}" for key in keys[:_LISTED_KEYS]]
    return "".join(lines) + (f"\n  {fault}: and {more} more" if more > 0 else "")


def write(
    path: Path,
    network: nn.Module,
    dimensions: Dimensions,
    metadata: Mapping[str, str],
    *,
    half: bool = True,
) -> None:
    """Write a model as safetensors, float16 or as it is, with its dimensions; whole or not."""
    tensors = {
        key: (value.half() if half and value.is_floating_point() else value).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    overflowed = [key for key, value in tensors.items() if not _finite(value)]
    if overflowed:
        raise InvalidCheckpoint(
            "these parameters do not fit into float16:" + _listing("overflow", overflowed)
        )
    described = {**metadata, "dimensions": json.dumps(dimensions.as_dict())}
    write_atomically(path, safetensors.torch.save(tensors, described))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it into it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
        try:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).chmod(0o644)
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
