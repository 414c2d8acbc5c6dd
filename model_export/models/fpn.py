"""Semantic segmentation with a feature pyramid: backbone, pyramid, head.

The base is the semantic branch of panoptic FPN (arXiv 1901.02446).
"""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.models.resnet import ResNet, initialise

PYRAMID_CHANNELS = 256
HEAD_CHANNELS = 128
HEAD_NORM_GROUPS = 32
PREDICTOR_STD = 0.01
STRIDES = (4, 8, 16, 32)


def laterals(in_channels: Sequence[int]) -> nn.ModuleList:
    """One 1x1 convolution per level, to the 256 channels of the pyramid."""
    return nn.ModuleList(nn.Conv2d(channels, PYRAMID_CHANNELS, 1) for channels in in_channels)


def add_top_down(maps: Sequence[Tensor]) -> list[Tensor]:
    """Add the next coarser sum, enlarged by nearest neighbour, to each level; fine to coarse."""
    summed = [maps[-1]]
    for finer in reversed(maps[:-1]):
        summed.append(finer + functional.interpolate(summed[-1], scale_factor=2.0, mode="nearest"))
    return summed[::-1]


class FeaturePyramid(nn.Module):
    """FPN (arXiv 1612.03144): 1x1 laterals, top-down sums, 3x3 output convolutions."""

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.lateral = laterals(in_channels)
        self.output = nn.ModuleList(
            nn.Conv2d(PYRAMID_CHANNELS, PYRAMID_CHANNELS, 3, padding=1) for _ in in_channels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 to maps of 256 channels at the same strides."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        summed = add_top_down(maps)
        return [output(x) for output, x in zip(self.output, summed, strict=True)]


class SegmentationHead(nn.Module):
    """Bring every level to stride 4 by convolutions and x2 steps, sum, and predict the classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(_head_level(stride) for stride in STRIDES)
        self.predictor = nn.Conv2d(HEAD_CHANNELS, classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps at strides 4, 8, 16, 32 to logits `[B, classes, H / 4, W / 4]`."""
        levels = [level(x) for level, x in zip(self.levels, maps, strict=True)]
        return self.predictor(functools.reduce(torch.add, levels))  # type: ignore[no-any-return]


def _head_level(stride: int) -> nn.Sequential:
    """`max(1, log2(stride) - 2)` times: convolution, GroupNorm, ReLU and, above stride 4, x2."""
    layers: list[nn.Module] = []
    channels = PYRAMID_CHANNELS
    for _ in range(max(1, stride.bit_length() - 3)):
        layers += [
            nn.Conv2d(channels, HEAD_CHANNELS, 3, padding=1, bias=False),
            nn.GroupNorm(HEAD_NORM_GROUPS, HEAD_CHANNELS),
            nn.ReLU(inplace=True),
        ]
        if stride > STRIDES[0]:
            layers.append(nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=False))
        channels = HEAD_CHANNELS
    return nn.Sequential(*layers)


class SegmentationNetwork(nn.Module):
    """Backbone, pyramid (`FeaturePyramid` or `VTFeaturePyramid`) and head; H, W multiples of 32."""

    def __init__(self, backbone: ResNet, pyramid: nn.Module, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.head = SegmentationHead(classes)
        initialise(self.head)
        # With so few outputs, He initialisation would start at a loss of 15 instead of ln(classes).
        nn.init.normal_(self.head.predictor.weight, std=PREDICTOR_STD)

    def scores(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to logits `[B, classes, H / 4, W / 4]`."""
        return self.head(self.pyramid(self.backbone.features(images)))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to logits `[B, classes, H, W]`."""
        return enlarged(self.scores(images))


def enlarged(scores: Tensor) -> Tensor:
    """Logits at stride 4, enlarged bilinearly: `[B, classes, H / 4, W / 4]` to `[..., H, W]`."""
    return functional.interpolate(scores, scale_factor=4.0, mode="bilinear", align_corners=False)
