"""Read checkpoints without executing code, load them key by key, and write our own."""

import json
import re
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
from model_export.files import write_atomically
from model_export.models.registry import Dimensions
from model_export.models.resnet import ResNet

WRAPPERS = (
    *("averaged", "ema", "model_ema", "state_dict_ema"),
    *("state_dict", "model_state_dict", "model", "network"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "network.", "backbone.", "trunk.")
PICKLED_SUFFIXES = (".pt", ".pth")
SUFFIXES = (*PICKLED_SUFFIXES, ".safetensors")
_LISTED_KEYS = 20
_COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|n_averaged)$")
_STRUCTURE_HINT = (
    "Other implementations of Visual Transformers differ in structure (groups, biases, widths), "
    "so their checkpoints cannot be loaded by renaming keys."
)


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by key, and the metadata stored with them."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def dimensions(self) -> Dimensions | None:
        """The dimensions of the model, or None if the file does not contain them."""
        text = self.metadata.get("dimensions")
        try:
            return None if text is None else Dimensions.from_dict(json.loads(text))
        except ValueError as error:
            raise InvalidCheckpoint(f"{self.path} has invalid dimensions: {error}") from error


def read(path: Path) -> Checkpoint:
    """Read a `.pt`, `.pth` or `.safetensors` file without executing any code in it.

    Training wrappers are opened (`WRAPPERS`); averaged weights take precedence over raw ones.

    Raises:
        InvalidCheckpoint: the file is missing, truncated, of another format, or does not map
            names to tensors.
    """
    if not path.is_file():
        raise InvalidCheckpoint(f"checkpoint {path} does not exist or is not a file")
    if path.suffix not in SUFFIXES:
        raise InvalidCheckpoint(f"{path} has an unsupported suffix; use {', '.join(SUFFIXES)}")
    if path.suffix in PICKLED_SUFFIXES:
        return Checkpoint(path, _tensors_of(path, _read_pickled(path)))
    return _read_safetensors(path)


def _read_safetensors(path: Path) -> Checkpoint:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return Checkpoint(path, tensors, file.metadata() or {})
    except Exception as error:
        raise InvalidCheckpoint(
            f"{path} is not a complete safetensors file: {_first_line(error)}"
        ) from error


def _read_pickled(path: Path) -> Any:
    _refuse_compressed(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InvalidCheckpoint(
            f"{path} cannot be read as plain tensors (truncated, not a PyTorch file, or with "
            f"objects that would execute code): {_first_line(error)}"
        ) from error


def _refuse_compressed(path: Path) -> None:
    """Reject compressed archives: PyTorch never writes them, and they may unpack to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            compressed = any(info.compress_type != zipfile.ZIP_STORED for info in archive.filelist)
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # an old-style or broken file: `torch.load` reports it
    if compressed:
        raise InvalidCheckpoint(f"{path} is a compressed archive; save it with `torch.save`")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    for _ in range(len(WRAPPERS)):  # wrappers may be nested
        content = _unwrapped(content)
    if not isinstance(content, Mapping) or not content:
        kind = type(content).__name__
        raise InvalidCheckpoint(f"{path} contains no tensors by name, only a {kind}")
    others = [str(key) for key, value in content.items() if not _is_plain(value)]
    if others:
        raise InvalidCheckpoint(
            f"{path} contains values that are not tensors, and no {', '.join(WRAPPERS)}:"
            + _listing("not a plain tensor", others)
        )
    return {str(key): value for key, value in content.items()}


def _is_plain(value: Any) -> bool:
    """Return whether a value is a dense tensor in memory, not sparse or quantized."""
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
    """Load parameters and buffers; every key must fit, except those that match `unused`.

    Raises:
        InvalidCheckpoint: keys are missing or unexpected, or have the wrong shape, the wrong type
            or values that are not finite. The network is unchanged.
    """
    own: dict[str, Tensor] = network.state_dict()
    given = _without_prefixes(checkpoint.tensors, own.keys())
    if unused is not None:
        own, given = _unmatched(own, unused), _unmatched(given, unused)
    faults = _faults(own, given)
    if any(faults.values()):
        listing = "".join(_listing(fault, keys) for fault, keys in faults.items() if keys)
        raise InvalidCheckpoint(f"{checkpoint.path} does not fit the model:{listing}")
    network.load_state_dict(given, strict=False)


def _unmatched(tensors: Mapping[str, Tensor], unused: re.Pattern[str]) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if not unused.match(key)}


def _faults(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """The keys that do not fit, by fault; values are compared only if all keys fit."""
    shared = [key for key in own if key in given]
    faults = {
        "missing": _sorted(own.keys() - given.keys()),
        "unexpected": _sorted(given.keys() - own.keys()),
        "wrong shape": [
            f"{key} {list(given[key].shape)}, not {list(own[key].shape)}"
            for key in shared
            if given[key].shape != own[key].shape
        ],
        "wrong type": [
            f"{key} {given[key].dtype}"
            for key in shared
            if own[key].is_floating_point() != given[key].is_floating_point()
        ],
    }
    if not any(faults.values()):
        faults["not finite"] = [key for key in shared if not _finite(given[key])]
    return faults


def load_model(network: nn.Module, checkpoint: Checkpoint, dimensions: Dimensions) -> None:
    """`load` for a whole model; the error of a VT model explains foreign checkpoints."""
    try:
        load(network, checkpoint)
    except InvalidCheckpoint as error:
        hint = f"\n{_STRUCTURE_HINT}" if dimensions.uses_tokens else ""
        raise InvalidCheckpoint(f"{error}{hint}") from error


def load_backbone(trunk: ResNet, checkpoint: Checkpoint) -> None:
    """Load a torchvision ResNet without `fc`, and without `layer4` if VT modules replace it."""
    stages_left_out = "".join(rf"|layer{stage}" for stage in range(trunk.stages + 1, 5))
    load(trunk, checkpoint, unused=re.compile(rf"^(fc{stages_left_out})\."))


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor.float()).all())  # some dtypes lack `isfinite`


def _sorted(keys: Iterable[str]) -> list[str]:
    return sorted(key for key in keys if not _COUNTERS.search(key))


def _without_prefixes(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Strip prefixes that all keys share, until one key is the model's own."""
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
    """Write a model and its dimensions as safetensors atomically, in float16 if `half`."""
    tensors = {
        key: (value.half() if half and value.is_floating_point() else value).contiguous().cpu()
        for key, value in network.state_dict().items()
    }
    overflowed = [key for key, value in tensors.items() if not _finite(value)]
    if overflowed:
        raise InvalidCheckpoint(
            "these parameters overflow float16:" + _listing("overflow", overflowed)
        )
    described = {**metadata, "dimensions": json.dumps(dimensions.as_dict())}
    write_atomically(path, safetensors.torch.save(tensors, described))
