"""VT-FPN: a feature pyramid whose 3x3 convolutions are replaced by visual tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.models.fpn import PYRAMID_CHANNELS, add_top_down, laterals
from model_export.models.resnet import initialise
from model_export.models.visual_transformer import Projector, initialise_tokenizers

QUERY_GROUP_CHANNELS = 16


class VTFeaturePyramid(nn.Module):
    """Tokens of every level meet in one transformer, then return to their own level's pixels.

    The tokenizers take no `value` convolution over the pixels (it would be one linear map after
    another); the projector's query is the one grouped convolution per pixel. With recurrent
    tokenizers the coarsest level tokenizes by filter and guides the next finer one, and so on.
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

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 to as many of 256 channels."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        tokens = self._tokenize(maps)
        related = self.relation(torch.cat(tokens, dim=2)).split([t.shape[2] for t in tokens], dim=2)
        projected = [p(x, t) for p, x, t in zip(self.projectors, maps, related, strict=True)]
        return add_top_down(projected)

    def _tokenize(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Each level's tokens `[B, C_T, L]`, fine to coarse; made from coarse to fine."""
        tokens: list[Tensor] = []
        for tokenizer, x in zip(reversed(self.tokenizers), reversed(maps), strict=True):
            tokens.append(tokenizer(x, tokens[-1] if tokens else None).tokens)
        return tokens[::-1]
