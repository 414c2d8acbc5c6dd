"""VT-FPN: a feature pyramid whose 3x3 convolutions are replaced by visual tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.models.fpn import PYRAMID_CHANNELS, add_top_down, laterals
from model_export.models.resnet import initialise
from model_export.models.visual_transformer import Projector, initialise_tokenizers

QUERY_GROUP_CHANNELS = 16


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

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 to maps of 256 channels at the same strides."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        tokens = self._tokenize(maps)
        related = self.relation(torch.cat(tokens, dim=2)).split([t.shape[2] for t in tokens], dim=2)
        projected = [p(x, t) for p, x, t in zip(self.projectors, maps, related, strict=True)]
        return add_top_down(projected)

    def _tokenize(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The tokens `[B, C_T, L]` of each level, fine to coarse; computed from coarse to fine."""
        tokens: list[Tensor] = []
        for tokenizer, x in zip(reversed(self.tokenizers), reversed(maps), strict=True):
            tokens.append(tokenizer(x, tokens[-1] if tokens else None).tokens)
        return tokens[::-1]
