"""ResNet (arXiv 1512.03385) with torchvision's parameter names, whole or as a trunk."""

from torch import Tensor, nn

STAGE_WIDTHS = (64, 128, 256, 512)
BLOCKS_PER_STAGE = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
STEM_CHANNELS = 64


def _conv(in_channels: int, out_channels: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, size, stride, padding=size // 2, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (ResNet-18 and -34)."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, stride_in_1x1: bool) -> None:  # noqa: ARG002
        super().__init__()
        self.conv1 = _conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H, W]` to `[B, width, H / stride, W / stride]`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)  # type: ignore[no-any-return]


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions around a shortcut (ResNet-50 and -101).

    torchvision puts the stride into the 3x3. `stride_in_1x1` puts it into the first 1x1, as in the
    original paper and the published VT costs.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, stride_in_1x1: bool) -> None:
        super().__init__()
        stride_1x1, stride_3x3 = (stride, 1) if stride_in_1x1 else (1, stride)
        out_channels = width * self.expansion
        self.conv1 = _conv(in_channels, width, 1, stride_1x1)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv(width, width, 3, stride_3x3)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = _conv(width, out_channels, 1)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H, W]` to `[B, 4 * width, H / stride, W / stride]`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += x if self.downsample is None else self.downsample(x)
        return self.relu(y)  # type: ignore[no-any-return]


def _downsample(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(_conv(in_channels, out_channels, 1, stride), nn.BatchNorm2d(out_channels))


def stage_channels(depth: int) -> tuple[int, ...]:
    """Channels of the maps after `layer1` ... `layer4`: 64-512, or 256-2048 with bottlenecks."""
    return tuple(width * _block(depth).expansion for width in STAGE_WIDTHS)


def _block(depth: int) -> type[BasicBlock] | type[Bottleneck]:
    return BasicBlock if depth in (18, 34) else Bottleneck


def _stage(depth: int, index: int, stride_in_1x1: bool) -> nn.Sequential:
    """A residual stage; all but the first halve the resolution in their first block."""
    in_channels, out_channels = (STEM_CHANNELS, *stage_channels(depth))[index : index + 2]
    blocks = [
        _block(depth)(
            out_channels if position else in_channels,
            STAGE_WIDTHS[index],
            stride=2 if index and not position else 1,
            stride_in_1x1=stride_in_1x1,
        )
        for position in range(BLOCKS_PER_STAGE[depth][index])
    ]
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """ResNet-18/34/50/101.

    With `classes`, the classifier of torchvision, key by key. Without, a trunk of `stages` residual
    stages (3 for VT-ResNet, 4 for the feature pyramids) and no head.
    """

    def __init__(
        self, depth: int, *, classes: int | None, stages: int = 4, stride_in_1x1: bool = False
    ) -> None:
        super().__init__()
        self.stages = stages
        self.conv1 = nn.Conv2d(3, STEM_CHANNELS, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM_CHANNELS)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, padding=1)
        for index in range(stages):
            self.add_module(f"layer{index + 1}", _stage(depth, index, stride_in_1x1))
        self.fc = None if classes is None else nn.Linear(stage_channels(depth)[stages - 1], classes)
        initialise(self)

    def features(self, images: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` to one map per stage, at strides 4, 8, 16, 32."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        maps = []
        for index in range(self.stages):
            x = self.get_submodule(f"layer{index + 1}")(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to logits `[B, classes]`."""
        assert self.fc is not None, "a trunk has no head"  # noqa: S101
        return self.fc(self.features(images)[-1].mean(dim=(2, 3)))  # type: ignore[no-any-return]


def initialise(network: nn.Module) -> None:
    """He initialisation of every convolution (fan out, ReLU), the ResNet recipe."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
