"""The network of a run: its first weights, its parameter groups and their moving average."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model_export import checkpoint
from model_export.models.registry import Dimensions, build
from model_export.training.run import Run


def initial_network(run: Run) -> nn.Module:
    """A fresh network, with the weights of the run's checkpoint, then of its backbone, if any."""
    network = build(run.dimensions)
    if run.initial_checkpoint is not None:
        source = checkpoint.read(run.initial_checkpoint)
        checkpoint.load_model(network, source, run.dimensions)
    if run.backbone is not None:
        trunk = network.get_submodule(_trunk_name(run.dimensions))
        checkpoint.load_backbone(trunk, checkpoint.read(run.backbone))  # type: ignore[arg-type]
    return network


def parameter_groups(network: nn.Module, run: Run) -> list[dict[str, Any]]:
    """No weight decay for norms and biases; a separate learning rate for a loaded backbone."""
    trunk = _trunk_name(run.dimensions)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        decay = run.recipe.weight_decay if parameter.dim() > 1 else 0.0
        from_backbone = run.backbone is not None and _is_in(trunk, name)
        factor = run.recipe.backbone_learning_rate if from_backbone else 1.0
        groups.setdefault((decay, factor), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "factor": factor}
        for (decay, factor), parameters in groups.items()
    ]


def _trunk_name(dimensions: Dimensions) -> str:
    match dimensions.family:
        case "vt_resnet":
            return "trunk"
        case "fpn" | "vt_fpn":
            return "backbone"
        case "resnet":
            return ""


def _is_in(trunk: str, parameter: str) -> bool:
    """Return whether a parameter belongs to the trunk; in a plain ResNet, all but the head do."""
    return parameter.startswith(f"{trunk}.") if trunk else not parameter.startswith("fc.")


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of the weights, whose decay grows in the first updates."""

    @torch.no_grad()
    def average(means: Iterable[Tensor], current: Iterable[Tensor], count: Tensor | int) -> None:
        weight = 1 - min(decay, (1 + float(count)) / (10 + float(count)))
        for mean, value in zip(means, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
