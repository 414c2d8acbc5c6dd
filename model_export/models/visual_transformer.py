"""The Visual Transformer module (arXiv 2006.03677, section 3): tokenizer, transformer, projector.

Shapes: a feature map X is `[B, C, H, W]`, N = H * W pixels; visual tokens T are `[B, C_T, L]`,
channels first, so that every linear map is a 1x1 convolution that can be grouped and followed by
a BatchNorm (which folds away at load). Attention has a single head over the axis in the paper's
equation, scaled by 1/sqrt(channels); only the transformer may have several heads. There is no
position encoding: permuting the tokens permutes the output.

The layers are reconstructed from the published cost tables; see `docs/models.md`.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

GROUP_CHANNELS = 64
TRANSFORMER_GROUPS = 4
LLOYD_STEPS = 2


def _pointwise_2d(in_channels: int, out_channels: int, groups: int = 1) -> nn.Sequential:
    """1x1 convolution without bias and BatchNorm, over pixels."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _pointwise_1d(in_channels: int, out_channels: int, groups: int = 1) -> nn.Sequential:
    """1x1 convolution without bias and BatchNorm, over tokens."""
    return nn.Sequential(
        nn.Conv1d(in_channels, out_channels, 1, groups=groups, bias=False),
        nn.BatchNorm1d(out_channels),
    )


def _grouped_2d(
    in_channels: int, out_channels: int, group_channels: int = GROUP_CHANNELS
) -> nn.Sequential:
    """A 1x1 convolution in groups of 64 output channels (`g64`)."""
    return _pointwise_2d(in_channels, out_channels, groups=out_channels // group_channels)


def _tokens_1d(in_channels: int, out_channels: int) -> nn.Module:
    """1x1 convolution over tokens, or the identity if the width fits (as R50/R101 costs imply)."""
    if in_channels == out_channels:
        return nn.Identity()
    return _pointwise_1d(in_channels, out_channels)


def _cells(tokens: int) -> tuple[int, int]:
    """The most square grid of `tokens` cells: 16 -> 4x4, 32 -> 4x8."""
    rows = next(n for n in range(math.isqrt(tokens), 0, -1) if tokens % n == 0)
    return rows, tokens // rows


class Tokenized(NamedTuple):
    """The output of a tokenizer: tokens `[B, C_T, L]`, attention `[B, L, N]` or None."""

    tokens: Tensor
    attention: Tensor | None


class FilterTokenizer(nn.Module):
    """`A = softmax_HW(X W_A / sqrt(C))`, `T = A^T value(X)` (equation 1)."""

    def __init__(self, channels: int, token_channels: int, tokens: int, value: bool = True) -> None:
        super().__init__()
        self.coef = nn.Conv2d(channels, tokens, 1, bias=False)
        self.value = _grouped_2d(channels, channels) if value else nn.Identity()
        self.out = _tokens_1d(channels, token_channels)

    def reset_parameters(self) -> None:
        """Draw coefficients that make the initial attention non-uniform.

        The scale 1/sqrt(C) expects coefficients of unit variance: their product with C
        channels of unit mean square then has unit variance too.
        """
        nn.init.normal_(self.coef.weight)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tokenized:  # noqa: ARG002
        """`[B, C, H, W]` to tokens `[B, C_T, L]` and attention `[B, L, N]`."""
        logits = self.coef(x).flatten(2)  # [B, L, N]
        attention = torch.softmax(logits / math.sqrt(x.shape[1]), dim=2)
        return Tokenized(self.out(_pool(self.value(x), attention)), attention)


class RecurrentTokenizer(nn.Module):
    """`W_R = T_in W_{T->R}`, `A = softmax_HW(X W_R^T / sqrt(C))`, `T = A^T X` (equation 2)."""

    def __init__(self, channels: int, token_channels: int, value: bool = True) -> None:
        super().__init__()
        self.query = _pointwise_1d(token_channels, channels)
        self.key = _grouped_2d(channels, channels)
        self.value = _grouped_2d(channels, channels) if value else nn.Identity()
        self.out = _tokens_1d(channels, token_channels)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tokenized:
        """`[B, C, H, W]` and tokens `[B, C_T, L]` to new tokens and attention `[B, L, N]`."""
        assert previous is not None, "a recurrent tokenizer needs earlier tokens"  # noqa: S101
        logits = self.query(previous).transpose(1, 2) @ self.key(x).flatten(2)  # [B, L, N]
        attention = torch.softmax(logits / math.sqrt(x.shape[1]), dim=2)
        return Tokenized(self.out(_pool(self.value(x), attention)), attention)


class PoolingTokenizer(nn.Module):
    """Tokens are the cells of the map, resized bilinearly to a grid (ablation of the paper)."""

    def __init__(self, channels: int, token_channels: int, tokens: int) -> None:
        super().__init__()
        self.cells = _cells(tokens)
        self.out = _tokens_1d(channels, token_channels)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tokenized:  # noqa: ARG002
        """`[B, C, H, W]` to tokens `[B, C_T, L]`, without attention."""
        return Tokenized(self.out(_downsample(x, self.cells)), None)


class ClusteringTokenizer(nn.Module):
    """Equation 1 with `W_A` = k-means centroids of the image's own pixels (ablation).

    Pixels and centroids are L2-normalised. The centroids start from the map downsampled to L cells
    and take two Lloyd steps. A centroid without pixels does not move. No gradient flows through
    the clustering.
    """

    def __init__(self, channels: int, token_channels: int, tokens: int, value: bool = True) -> None:
        super().__init__()
        self.cells = _cells(tokens)
        self.value = _grouped_2d(channels, channels) if value else nn.Identity()
        self.out = _tokens_1d(channels, token_channels)

    def forward(self, x: Tensor, previous: Tensor | None = None) -> Tokenized:  # noqa: ARG002
        """`[B, C, H, W]` to tokens `[B, C_T, L]` and attention `[B, L, N]`."""
        centroids = self._centroids(x)  # [B, C, L]
        logits = centroids.transpose(1, 2) @ x.flatten(2)  # [B, L, N]
        attention = torch.softmax(logits / math.sqrt(x.shape[1]), dim=2)
        return Tokenized(self.out(_pool(self.value(x), attention)), attention)

    @torch.no_grad()
    def _centroids(self, x: Tensor) -> Tensor:
        x = x.float()  # sums over pixels need full precision
        pixels = functional.normalize(x.flatten(2), dim=1)  # [B, C, N]
        centroids = functional.normalize(_downsample(x, self.cells), dim=1)
        for _ in range(LLOYD_STEPS):
            nearest = (centroids.transpose(1, 2) @ pixels).argmax(dim=1, keepdim=True)  # [B, 1, N]
            sums = torch.zeros_like(centroids).scatter_add(2, nearest.expand_as(pixels), pixels)
            moved = functional.normalize(sums, dim=1)
            centroids = torch.where(sums.abs().amax(1, keepdim=True) > 0, moved, centroids)
        return centroids


def _pool(values: Tensor, attention: Tensor) -> Tensor:
    """`A^T X`: `[B, C, H, W]` and `[B, L, N]` to `[B, C, L]`."""
    return values.flatten(2) @ attention.transpose(1, 2)


def _downsample(x: Tensor, cells: tuple[int, int]) -> Tensor:
    """Bilinear resize to `cells`, flattened: `[B, C, H, W]` to `[B, C, L]`."""
    return functional.interpolate(x, size=cells, mode="bilinear", align_corners=False).flatten(2)


class Transformer(nn.Module):
    """`T' = T + softmax_L((T K)(T Q)^T) T V`, `T_out = T' + relu(T' F1) F2` (equation 3)."""

    def __init__(self, token_channels: int, heads: int = 1) -> None:
        super().__init__()
        self.heads = heads
        self.k = _pointwise_1d(token_channels, token_channels // 2, TRANSFORMER_GROUPS)
        self.q = _pointwise_1d(token_channels, token_channels // 2, TRANSFORMER_GROUPS)
        self.v = _pointwise_1d(token_channels, token_channels, TRANSFORMER_GROUPS)
        self.f1 = _pointwise_1d(token_channels, token_channels)
        self.f2 = _pointwise_1d(token_channels, token_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, C_T, L]` to `[B, C_T, L]`."""
        tokens = tokens + self._attend(tokens)
        return tokens + self.f2(torch.relu(self.f1(tokens)))  # type: ignore[no-any-return]

    def _attend(self, tokens: Tensor) -> Tensor:
        k, q, v = (self._split(part(tokens)) for part in (self.k, self.q, self.v))
        logits = k.transpose(-2, -1) @ q / math.sqrt(k.shape[-2])  # [B, heads, L, L]
        attention = torch.softmax(logits, dim=-1)
        return (v @ attention.transpose(-2, -1)).flatten(1, 2)

    def _split(self, tokens: Tensor) -> Tensor:
        """`[B, C, L]` to `[B, heads, C / heads, L]`."""
        return tokens.reshape(tokens.shape[0], self.heads, -1, tokens.shape[2])


class GraphConvolution(nn.Module):
    """`T + A (T W)` with a learned `L x L` adjacency A (ablation of the paper)."""

    def __init__(self, token_channels: int, tokens: int) -> None:
        super().__init__()
        self.linear = _pointwise_1d(token_channels, token_channels)
        self.adjacency = nn.Parameter(torch.eye(tokens) + torch.full((tokens, tokens), 1 / tokens))

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, C_T, L]` to `[B, C_T, L]`."""
        return tokens + self.linear(tokens) @ self.adjacency.T  # type: ignore[no-any-return]


class TokenLinear(nn.Module):
    """`T + T W`: the tokens are not related (ablation `none` of the paper)."""

    def __init__(self, token_channels: int) -> None:
        super().__init__()
        self.linear = _pointwise_1d(token_channels, token_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """`[B, C_T, L]` to `[B, C_T, L]`."""
        return tokens + self.linear(tokens)  # type: ignore[no-any-return]


class Projector(nn.Module):
    """`X_out = shortcut(X) + softmax_L((X W_Q)(T W_K)^T / sqrt(C_out)) T W_V` (equation 4)."""

    def __init__(
        self,
        in_channels: int,
        token_channels: int,
        out_channels: int,
        group_channels: int = GROUP_CHANNELS,
    ) -> None:
        super().__init__()
        self.query = _grouped_2d(in_channels, out_channels, group_channels)
        self.key = _pointwise_1d(token_channels, out_channels)
        self.value = _tokens_1d(token_channels, out_channels)
        self.shortcut = (
            nn.Identity()
            if in_channels == out_channels
            else _pointwise_2d(in_channels, out_channels)
        )

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """`[B, C_in, H, W]` and tokens `[B, C_T, L]` to `[B, C_out, H, W]`."""
        attention = self.attention(x, tokens)
        projected = self.value(tokens) @ attention  # [B, C_out, N]
        return self.shortcut(x) + projected.unflatten(2, x.shape[2:])  # type: ignore[no-any-return]

    def attention(self, x: Tensor, tokens: Tensor) -> Tensor:
        """The weight of each token for each pixel: `[B, L, N]`, summing to 1 over L."""
        query = self.query(x).flatten(2)  # [B, C_out, N]
        logits = self.key(tokens).transpose(1, 2) @ query  # [B, L, N]
        return torch.softmax(logits / math.sqrt(query.shape[1]), dim=1)


def initialise_tokenizers(network: nn.Module) -> None:
    """Initialise every filter tokenizer, after the general initialisation of the network."""
    for module in network.modules():
        if isinstance(module, FilterTokenizer):
            module.reset_parameters()
