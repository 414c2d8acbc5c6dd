"""Networks in which every parameter matters, and images to run them on."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model_export.preprocessing import RgbArray

CONTRACT_MEAN = (0.485, 0.456, 0.406)
CONTRACT_STD = (0.229, 0.224, 0.225)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """A network in evaluation mode that looks trained.

    A fresh BatchNorm is the identity and a fresh bias is 0, so a test would not detect a missing
    one. The scales are below 1 so that activations do not grow from block to block. A segmenter's
    fresh predictor is almost constant, so all pixels would be of one class.
    """
    chance = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name == "head.predictor.weight":
                parameter.normal_(0, 0.4, generator=chance)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.2, generator=chance)
            elif parameter.dim() == 1:
                parameter.uniform_(0.4, 1.0, generator=chance)
            elif name.endswith("adjacency"):
                parameter.add_(torch.randn(parameter.shape, generator=chance), alpha=0.2)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=chance)
                module.running_var.uniform_(0.5, 1.5, generator=chance)
    return network.eval()


def noise(batch: int = 4, height: int = 64, width: int = 64, seed: int = 1) -> Tensor:
    """Images FP32 `[B, 3, H, W]` as a network sees them: coloured patches and grain.

    White noise alone would look the same to a pooling network whatever its pixels are.
    """
    chance = torch.Generator().manual_seed(seed)
    colors = torch.randn(batch, 3, 1, 1, generator=chance)
    patches = torch.randn(batch, 3, 5, 5, generator=chance)
    grain = torch.randn(batch, 3, height, width, generator=chance)
    smooth = functional.interpolate(patches, (height, width), mode="bilinear")
    return colors + smooth + grain * torch.linspace(0.1, 1.3, batch).view(-1, 1, 1, 1)


def photographs(batch: int, height: int = 64, width: int = 64, seed: int = 1) -> RgbArray:
    """Similar images as UINT8 `[B, H, W, 3]`."""
    images = 128 + 55 * noise(batch, height, width, seed).permute(0, 2, 3, 1)
    array: RgbArray = images.clamp(0, 255).byte().numpy()
    return array


def features(
    channels: int, batch: int = 2, height: int = 6, width: int = 5, seed: int = 2
) -> Tensor:
    """A feature map FP32 `[B, C, H, W]`."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(batch, channels, height, width, generator=chance)
