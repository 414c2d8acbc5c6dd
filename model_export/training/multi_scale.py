"""Evaluation over several scales of a photo and its mirror images."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.models.fpn import SegmentationNetwork
from model_export.models.served import ServedModel


class MultiScale(nn.Module):
    """A network whose logits are the logarithm of the mean probability over scales and mirrors.

    It takes normalised images `[B, 3, H, W]`; scaled sides are rounded to multiples of 32.
    """

    def __init__(self, network: nn.Module, scales: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self._scales = scales

    def forward(self, images: Tensor) -> Tensor:
        """The logits, at the size that the network gives for the images themselves."""
        mean = torch.stack([self._probabilities(images, scale) for scale in self._scales]).mean(0)
        return mean.clamp(min=1e-12).log()

    def _probabilities(self, images: Tensor, scale: float) -> Tensor:
        size = [max(32, 32 * round(side * scale / 32)) for side in images.shape[2:]]
        scaled = images
        if size != list(images.shape[2:]):
            scaled = functional.interpolate(images, size, mode="bilinear", antialias=True)
        plain: Tensor = self.network(scaled).softmax(1)
        mean = (plain + self._mirrored(scaled).softmax(1)) / 2
        if mean.dim() == 4 and mean.shape[2:] != images.shape[2:]:
            mean = functional.interpolate(mean, images.shape[2:], mode="bilinear")
        return mean

    def _mirrored(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images.flip(3))
        return logits.flip(3) if logits.dim() == 4 else logits


class _ServedLogits(ServedModel):
    output_names = ("logits",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network(self.normalisation(images)),)


class _ServedLabels(ServedModel):
    output_names = ("labels",)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.network(self.normalisation(images)).argmax(dim=1).to(torch.uint8),)


def multi_scale(model: ServedModel, scales: Sequence[float]) -> ServedModel:
    """The served model over these scales; it returns labels or logits alone."""
    is_segmenter = isinstance(model.network, SegmentationNetwork)
    form = _ServedLabels if is_segmenter else _ServedLogits
    return form(model.normalisation, MultiScale(model.network, scales))
