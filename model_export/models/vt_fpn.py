"""VT-FPN: a feature pyramid whose 3x3 convolutions are replaced by visual tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_export.models.fpn import PYRAMID_CHANNELS, add_top_down, laterals
from model_export.models.resnet import initialise
from model_export.models.visual_transformer import (
    PoolingTokenizer,
    Projector,
    Tokenized,
    initialise_tokenizers,
)

QUERY_GROUP_CHANNELS = 16


class TokenizedPyramid(NamedTuple):
    """The maps of a pyramid, its tokens, and the attention of its tokenizers, fine to coarse.

    The tokens `[B, C_T, levels * L]` are those that the projectors get. The attention of a level
    is `[B, L, h, w]`; the list is empty for `pooling`.
    """

    maps: list[Tensor]
    tokens: Tensor
    attention: list[Tensor]


class VTFeaturePyramid(nn.Module):
    """Tokens of all levels meet in one transformer, then return to the pixels of their level.

    The tokenizers have no `value` convolution over the pixels, which would follow the linear map
    of the lateral; the only grouped convolution per pixel is the projector's query. With recurrent
    tokenizers, the coarsest level uses a filter and guides the next finer level, and so on.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        tokenizers: Sequence[nn.Module],
        relation: nn.Module,
        token_channels: int,
    ) -> None:
        super().__init__()
        self.lateral = laterals(in_channels)
        self.tokenizers = nn.ModuleList(tokenizers)
        self.relation = relation
        self.projectors = nn.ModuleList(
            Projector(PYRAMID_CHANNELS, token_channels, PYRAMID_CHANNELS, QUERY_GROUP_CHANNELS)
            for _ in in_channels
        )
        initialise(self)
        initialise_tokenizers(self)

    @property
    def has_attention(self) -> bool:
        """Whether the tokenizers have attention maps; pooling tokenizers do not."""
        return not isinstance(self.tokenizers[0], PoolingTokenizer)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 to maps of 256 channels at the same strides."""
        return self.tokenized(maps).maps

    def tokenized(self, maps: Sequence[Tensor]) -> TokenizedPyramid:
        """`forward`, with the tokens and the attention."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        levels = self._tokenize(maps)
        related = self.relation(torch.cat([level.tokens for level in levels], dim=2))
        split = related.split([level.tokens.shape[2] for level in levels], dim=2)
        projected = [p(x, t) for p, x, t in zip(self.projectors, maps, split, strict=True)]
        attention = [
            level.attention.unflatten(2, x.shape[2:])  # type: ignore[no-untyped-call]
            for level, x in zip(levels, maps, strict=True)
            if level.attention is not None
        ]
        return TokenizedPyramid(add_top_down(projected), related, attention)

    def _tokenize(self, maps: Sequence[Tensor]) -> list[Tokenized]:
        """Tokens and attention of each level, fine to coarse; computed from coarse to fine."""
        levels: list[Tokenized] = []
        for tokenizer, x in zip(reversed(self.tokenizers), reversed(maps), strict=True):
            levels.append(tokenizer(x, levels[-1].tokens if levels else None))
        return levels[::-1]
