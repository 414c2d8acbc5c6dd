"""VT-ResNet: a ResNet whose last stage is replaced by Visual Transformer modules."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model_export.models.resnet import ResNet, initialise
from model_export.models.visual_transformer import (
    PoolingTokenizer,
    Projector,
    Tokenized,
    initialise_tokenizers,
)


class VisualTransformer(nn.Module):
    """One VT module: tokenize the map, relate the tokens, project them back.

    A module without a tokenizer continues with the tokens of the previous module. A module whose
    map is not used has no projector.
    """

    def __init__(
        self, tokenizer: nn.Module | None, relation: nn.Module, projector: Projector | None
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.relation = relation
        self.projector = projector

    def forward(self, x: Tensor, previous: Tensor | None) -> tuple[Tensor, Tokenized]:
        """Map `[B, C_in, H, W]` and previous tokens `[B, C_T, L]` to the next map and tokens."""
        if self.tokenizer is None:
            assert previous is not None, "the first module needs a tokenizer"  # noqa: S101
            tokens, attention = previous, None
        else:
            tokens, attention = self.tokenizer(x, previous)
        tokens = self.relation(tokens)
        x = x if self.projector is None else self.projector(x, tokens)
        return x, Tokenized(tokens, attention)


class VTResNet(nn.Module):
    """Trunk (stem and three stages), VT modules on its stride-16 map, mean of the tokens, `fc`."""

    def __init__(
        self, trunk: ResNet, modules: Sequence[VisualTransformer], token_channels: int, classes: int
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.visual_transformers = nn.ModuleList(modules)
        self.fc = nn.Linear(token_channels, classes)
        initialise(self.visual_transformers)
        initialise_tokenizers(self)

    @property
    def has_attention(self) -> bool:
        """Whether the tokenizers have attention maps; pooling tokenizers do not."""
        return not isinstance(self.visual_transformers[0].tokenizer, PoolingTokenizer)

    def visual_tokens(self, images: Tensor) -> Tokenized:
        """Images `[B, 3, H, W]` to the last tokens `[B, C_T, L]` and every tokenizer's attention.

        The attention is `[B, modules, L, h, w]` on the stride-16 map, or None for `pooling`.
        """
        x = self.trunk.features(images)[-1]
        grid, tokens, attentions = x.shape[2:], None, []
        for module in self.visual_transformers:
            x, (tokens, attention) = module(x, tokens)
            if attention is not None:
                attentions.append(attention.unflatten(2, grid))
        assert tokens is not None  # noqa: S101
        return Tokenized(tokens, torch.stack(attentions, dim=1) if attentions else None)

    def classify(self, tokens: Tensor) -> Tensor:
        """Tokens `[B, C_T, L]` to logits `[B, classes]`."""
        return self.fc(tokens.mean(dim=2))  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """`[B, 3, H, W]` to logits `[B, classes]`."""
        return self.classify(self.visual_tokens(images).tokens)
