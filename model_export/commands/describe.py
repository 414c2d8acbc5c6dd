"""What a model costs: parameters and multiply-accumulates, layer by layer, without weights."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from model_export.errors import InvalidModel
from model_export.models.registry import Dimensions, build

DEFAULT_INPUT_SIZES = {"classification": (224, 224), "segmentation": (800, 1216)}
STRIDE = 32
_SUMMARY_DEPTH = 3


@dataclass(frozen=True)
class Layer:
    """A part of the network: its output's shape, parameters and MACs, those below it included."""

    name: str
    kind: str
    output: str
    parameters: int
    macs: int


@dataclass(frozen=True)
class Description:
    """Costs at batch 1 in evaluation mode; MACs of convolutions, linears and products alone."""

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


def check_input_size(dimensions: Dimensions, size: tuple[int, int]) -> None:
    """Refuse a size that the network cannot take; raises `InvalidModel`."""
    if dimensions.task == "segmentation" and any(side < 1 or side % STRIDE for side in size):
        raise InvalidModel(
            f"height and width must be multiples of {STRIDE} for segmentation, not {size}"
        )
    if min(size) < STRIDE:
        raise InvalidModel(f"height and width must be at least {STRIDE}, not {size}")


def describe(dimensions: Dimensions, input_size: tuple[int, int] | None = None) -> Description:
    """Count on the meta device: no memory is taken and nothing is computed."""
    size = input_size or DEFAULT_INPUT_SIZES[dimensions.task]
    check_input_size(dimensions, size)
    with torch.device("meta"):
        network = build(dimensions).eval()
        images = torch.empty(1, 3, *size)
    shapes: dict[str, str] = {}
    hooks = [
        module.register_forward_hook(_record(shapes, name))
        for name, module in network.named_modules()
    ]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(images)
    for hook in hooks:
        hook.remove()
    counts = {name: sum(flops.values()) // 2 for name, flops in counter.get_flop_counts().items()}
    root = type(network).__name__
    return Description(
        dimensions=dimensions,
        input_size=size,
        parameters=_parameters(network),
        macs=counts["Global"],
        module_macs=counts[f"{root}.pyramid"] if dimensions.task == "segmentation" else None,
        layers=tuple(_layers(network, counts, shapes)),
    )


def _layers(
    network: nn.Module, counts: Mapping[str, int], shapes: Mapping[str, str]
) -> Iterator[Layer]:
    """The parts that compute, down to `_SUMMARY_DEPTH` names deep."""
    root = type(network).__name__
    for name, module in network.named_modules():
        prefix = f"{root}.{name}"
        own = counts.get(prefix, 0)  # none where only the parts were called, not the whole
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


def table(description: Description) -> str:
    """The layer summary as text, a line a layer."""
    rows = [("layer", "kind", "output", "parameters", "MACs")]
    rows += [
        (
            "  " * layer.name.count(".") + layer.name,
            layer.kind,
            layer.output,
            f"{layer.parameters:,}",
            f"{layer.macs / 1e6:,.2f} M",
        )
        for layer in description.layers
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        f"{name:<{widths[0]}}  {kind:<{widths[1]}}  {output:<{widths[2]}}  "
        f"{parameters:>{widths[3]}}  {macs:>{widths[4]}}"
        for name, kind, output, parameters, macs in rows
    ]
    height, width = description.input_size
    total = (
        f"{description.dimensions.name} at {height}x{width}: "
        f"{description.parameters:,} parameters, "
        f"{description.macs / 1e6:,.2f} M MACs"
    )
    if description.module_macs is not None:
        total += f", of these {description.module_macs / 1e6:,.2f} M in the pyramid"
    return "\n".join([*(line.rstrip() for line in lines), "", total])
