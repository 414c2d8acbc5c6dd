"""The costs of a model: parameters and multiply-accumulates (MACs) by layer."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model_export.models.input_size import check_input_size
from model_export.models.registry import Dimensions, build

DEFAULT_INPUT_SIZES = {"classification": (224, 224), "segmentation": (800, 1216)}
_SUMMARY_DEPTH = 3


@dataclass(frozen=True)
class Layer:
    """A part of the network: output shape, parameters and MACs, including its own parts."""

    name: str
    kind: str
    output: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Description:
    """Costs at batch 1 in evaluation mode; MACs of convolutions, linear layers and products."""

    dimensions: Dimensions
    input_size: tuple[int, int]
    parameters: int
    macs: int
    module_macs: int | None
    layers: tuple[Layer, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data."""
        data: dict[str, Any] = {
            "model": self.dimensions.name,
            "task": self.dimensions.task,
            "dimensions": self.dimensions.as_dict(),
            "input_size": list(self.input_size),
            "parameters": self.parameters,
            "macs": self.macs,
        }
        if self.module_macs is not None:
            data["module_macs"] = self.module_macs
        return data


def describe(dimensions: Dimensions, input_size: tuple[int, int] | None = None) -> Description:
    """Count on the meta device, without weights or computation."""
    size = input_size or DEFAULT_INPUT_SIZES[dimensions.task]
    check_input_size(dimensions, size)
    with torch.device("meta"):
        network = build(dimensions).eval()
        counts, shapes = _measured(network, torch.empty(1, 3, *size))
    root = type(network).__name__
    return Description(
        dimensions=dimensions,
        input_size=size,
        parameters=_parameters(network),
        macs=counts["Global"],
        module_macs=counts[f"{root}.pyramid"] if dimensions.task == "segmentation" else None,
        layers=tuple(_layers(network, counts, shapes)),
    )


def _measured(network: nn.Module, images: Tensor) -> tuple[dict[str, int], dict[str, str]]:
    """MACs by qualified module name, and output shapes by module name, of one forward pass."""
    shapes: dict[str, str] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(_record(shapes, name))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    return counts, shapes


def _layers(
    network: nn.Module, counts: Mapping[str, int], shapes: Mapping[str, str]
) -> Iterator[Layer]:
    """The parts that compute something, down to `_SUMMARY_DEPTH` levels."""
    root = type(network).__name__
    for name, module in network.named_modules():
        prefix = f"{root}.{name}"
        own = counts.get(prefix, 0)  # none if only its parts were called
        macs = own or sum(
            counts.get(f"{prefix}.{child}", 0) for child, _ in module.named_children()
        )
        if name and macs and name.count(".") < _SUMMARY_DEPTH:
            kind = type(module).__name__
            yield Layer(name, kind, shapes.get(name, ""), _parameters(module), macs)


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _record(shapes: dict[str, str], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        tensors = [output] if isinstance(output, Tensor) else _tensors(output)
        shapes[name] = " ".join("x".join(map(str, tensor.shape[1:])) for tensor in tensors)

    return hook


def _tensors(output: Any) -> list[Tensor]:
    return [item for item in output if isinstance(item, Tensor)] if output is not None else []
