"""Served models: a network with its normalisation in front and its outputs behind.

Training evaluates these modules, `export` traces them, and `verify` compares them with the graph:
the outputs of a model are defined once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.models.fpn import SegmentationNetwork
from model_export.models.vt_resnet import VTResNet


class Normalisation(nn.Module):
    """UINT8 `[B, H, W, 3]`, 0-255, to float `[B, 3, H, W]`, `(x / 255 - mean) / std`."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        means, stds = torch.tensor(mean), torch.tensor(std)
        self.register_buffer("scale", (1 / (255 * stds)).view(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-means / stds).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Raw RGB bytes to the network's input."""
        return images.permute(0, 3, 1, 2).float() * self.scale + self.shift


class ServedModel(nn.Module):
    """Images UINT8 `[B, H, W, 3]` to the outputs in the contract."""

    output_names: tuple[str, ...]

    def __init__(self, normalisation: Normalisation, network: nn.Module) -> None:
        super().__init__()
        self.normalisation = normalisation
        self.network = network


class ServedResNet(ServedModel):
    """`logits` FP32 `[B, classes]`."""

    output_names = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """UINT8 `[B, H, W, 3]` to the logits."""
        return (self.network(self.normalisation(images)),)


class ServedVTResNet(ServedModel):
    """`logits`, `tokens` `[B, L, C_T]` and, if the tokenizers attend, `token_attention`."""

    network: VTResNet

    def __init__(
        self, normalisation: Normalisation, network: VTResNet, has_attention: bool
    ) -> None:
        super().__init__(normalisation, network)
        attention = ("token_attention",) if has_attention else ()
        self.output_names = ("logits", "tokens", *attention)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """UINT8 `[B, H, W, 3]` to logits, tokens and attention `[B, modules, L, h, w]`."""
        tokens, attention = self.network.visual_tokens(self.normalisation(images))
        outputs = (self.network.classify(tokens), tokens.transpose(1, 2))
        return outputs if attention is None else (*outputs, attention)


class ServedSegmentation(ServedModel):
    """`labels` UINT8 `[B, H, W]`: the class of each pixel, after upsampling."""

    output_names = ("labels",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """UINT8 `[B, H, W, 3]` to the class of each pixel."""
        logits = self.network(self.normalisation(images))
        return (logits.argmax(dim=1).to(torch.uint8),)


def served(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> ServedModel:
    """The served form of a network from `registry.build`."""
    normalisation = Normalisation(mean, std)
    if isinstance(network, VTResNet):
        return ServedVTResNet(normalisation, network, network.has_attention)
    if isinstance(network, SegmentationNetwork):
        return ServedSegmentation(normalisation, network)
    return ServedResNet(normalisation, network)
