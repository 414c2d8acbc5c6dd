"""Served models: a network with its normalisation in front and its outputs behind.

Training evaluates these modules, `export` traces them, and `verify` compares them with the graph:
the outputs of a model are defined once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.models.fpn import STRIDES, SegmentationNetwork, enlarged
from model_export.models.vt_fpn import VTFeaturePyramid
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

    @property
    def head(self) -> nn.Linear:
        """The linear layer from the mean of the tokens to the logits."""
        return self.network.fc


class ServedFPN(ServedModel):
    """`labels` UINT8 `[B, H, W]`, the class of each pixel, and the `scores` behind them.

    `scores` FP32 `[B, classes, H / 4, W / 4]` are the logits before they are enlarged bilinearly.
    """

    network: SegmentationNetwork
    output_names = ("labels", "scores")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """UINT8 `[B, H, W, 3]` to labels and scores."""
        scores = self.network.scores(self.normalisation(images))
        return _labels(scores), scores


class ServedVTFPN(ServedModel):
    """`labels`, `scores`, `tokens` `[B, 4 * L, C_T]` and, if the tokenizers attend, their maps.

    The maps of each level are one output: `token_attention_stride_4` `[B, L, H / 4, W / 4]` to
    `token_attention_stride_32`. The tokens are in the order of the levels, fine to coarse.
    """

    network: SegmentationNetwork

    def __init__(
        self, normalisation: Normalisation, network: SegmentationNetwork, has_attention: bool
    ) -> None:
        super().__init__(normalisation, network)
        attention = [f"token_attention_stride_{stride}" for stride in STRIDES if has_attention]
        self.output_names = ("labels", "scores", "tokens", *attention)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """UINT8 `[B, H, W, 3]` to labels, scores, tokens and the attention of each level."""
        network, pyramid = self.network, self.network.pyramid
        assert isinstance(pyramid, VTFeaturePyramid)  # noqa: S101
        features = network.backbone.features(self.normalisation(images))
        maps, tokens, attention = pyramid.tokenized(features)
        scores = network.head(maps)
        return (_labels(scores), scores, tokens.transpose(1, 2), *attention)


def _labels(scores: Tensor) -> Tensor:
    """The class of each pixel: `[B, classes, H / 4, W / 4]` to UINT8 `[B, H, W]`."""
    return enlarged(scores).argmax(dim=1).to(torch.uint8)


def served(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> ServedModel:
    """The served form of a network from `registry.build`."""
    normalisation = Normalisation(mean, std)
    if isinstance(network, VTResNet):
        return ServedVTResNet(normalisation, network, network.has_attention)
    if isinstance(network, SegmentationNetwork):
        if isinstance(network.pyramid, VTFeaturePyramid):
            return ServedVTFPN(normalisation, network, network.pyramid.has_attention)
        return ServedFPN(normalisation, network)
    return ServedResNet(normalisation, network)
