"""Model names to dimensions, as data; dimensions to networks, by one builder."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from torch import nn

from model_export.errors import InvalidModel
from model_export.models.fpn import PYRAMID_CHANNELS, STRIDES, FeaturePyramid, SegmentationNetwork
from model_export.models.resnet import ResNet, stage_channels
from model_export.models.visual_transformer import (
    ClusteringTokenizer,
    FilterTokenizer,
    GraphConvolution,
    PoolingTokenizer,
    Projector,
    RecurrentTokenizer,
    TokenLinear,
    Transformer,
)
from model_export.models.vt_fpn import VTFeaturePyramid
from model_export.models.vt_resnet import VisualTransformer, VTResNet

Task = Literal["classification", "segmentation"]
Family = Literal["resnet", "vt_resnet", "fpn", "vt_fpn"]

_FAMILIES: tuple[Family, ...] = ("resnet", "vt_resnet", "fpn", "vt_fpn")
DEPTHS = (18, 34, 50, 101)
TOKENIZERS = ("filter", "recurrent", "pooling", "clustering")
TOKEN_RELATIONS = ("transformer", "graph", "none")
TOKEN_CHANNELS = 1024
MAX_TOKENS = 1024
VT_MODULES = {18: 2, 34: 3, 50: 3, 101: 3}
VT_OUT_CHANNELS = {18: 512, 34: 512, 50: 1024, 101: 1024}
STRIDE_16_STAGES = 3


@dataclass(frozen=True)
class Dimensions:
    """Everything that determines a network; stored in the checkpoint and in the contract.

    `tokens` is L: per VT module in VT-ResNet, per pyramid level in VT-FPN. The last five fields
    do not apply to `resnet` and `fpn`, which keep the defaults.
    """

    family: Family
    depth: int
    classes: int
    stride_in_1x1: bool = False
    tokenizer: str = "recurrent"
    token_relation: str = "transformer"  # noqa: S105
    tokens: int = 16
    projector: bool = True
    heads: int = 1

    def __post_init__(self) -> None:
        """Reject dimensions that cannot be built."""
        _require(
            self.family in _FAMILIES,
            f"family must be one of {', '.join(_FAMILIES)}, not {self.family!r}",
        )
        _require(self.depth in DEPTHS, f"depth must be one of {DEPTHS}, not {self.depth}")
        _require(self.classes >= 1, f"a model needs at least 1 class, not {self.classes}")
        _require(
            self.task == "classification" or self.classes <= 256,
            f"a segmentation model has at most 256 classes (labels are UINT8), not {self.classes}",
        )
        _require(
            self.tokenizer in TOKENIZERS,
            f"tokenizer must be one of {', '.join(TOKENIZERS)}, not {self.tokenizer!r}",
        )
        _require(
            self.token_relation in TOKEN_RELATIONS,
            f"token_relation must be one of {', '.join(TOKEN_RELATIONS)}, "
            f"not {self.token_relation!r}",
        )
        _require(
            1 <= self.tokens <= MAX_TOKENS,
            f"tokens must be between 1 and {MAX_TOKENS}, not {self.tokens}",
        )
        _require(
            self.heads >= 1 and TOKEN_CHANNELS // 2 % self.heads == 0,
            f"heads must divide {TOKEN_CHANNELS // 2}, but {self.heads} does not",
        )
        _require(
            self.projector or self.family != "vt_fpn",
            "VT-FPN needs its projectors: they carry the tokens back to the pixels",
        )

    @property
    def task(self) -> Task:
        """The task of the network."""
        return "classification" if self.family in ("resnet", "vt_resnet") else "segmentation"

    @property
    def name(self) -> str:
        """The name in the registry: `vt_resnet18`, `fpn_resnet50` ..."""
        if self.task == "classification":
            return f"{self.family}{self.depth}"
        return f"{self.family}_resnet{self.depth}"

    @property
    def uses_tokens(self) -> bool:
        """Whether the network has VT modules."""
        return self.family in ("vt_resnet", "vt_fpn")

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data, without the fields that do not apply to the family."""
        data = dataclasses.asdict(self)
        if not self.uses_tokens:
            for key in ("tokenizer", "token_relation", "tokens", "projector", "heads"):
                del data[key]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `as_dict`; raises `InvalidModel` on anything else."""
        try:
            return cls(**data)
        except TypeError as error:
            raise InvalidModel(f"invalid model dimensions: {error}") from error


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise InvalidModel(sentence)


def _defaults(family: Family, depth: int) -> Dimensions:
    match family:
        case "resnet" | "vt_resnet":
            return Dimensions(family, depth, classes=1000)
        case "fpn":
            return Dimensions(family, depth, classes=54)
        case "vt_fpn":
            return Dimensions(family, depth, classes=54, tokenizer="filter", tokens=8)


MODELS: dict[str, Dimensions] = {
    dimensions.name: dimensions
    for dimensions in (_defaults(family, depth) for family in _FAMILIES for depth in DEPTHS)
}

_TOKEN_OPTIONS = frozenset({"tokenizer", "token_relation", "tokens", "projector", "heads"})


def dimensions_of(model: str, **changes: Any) -> Dimensions:
    """The dimensions of a registered model, with every change that is not None.

    Raises:
        InvalidModel: the name is unknown, or a dimension does not apply to the model.
    """
    if model not in MODELS:
        known = re.sub(r", (\S+)$", r" and \1", ", ".join(MODELS))
        raise InvalidModel(f"unknown model {model!r}; the models are {known}")
    defaults = MODELS[model]
    given = {key: value for key, value in changes.items() if value is not None}
    meaningless = sorted(_TOKEN_OPTIONS & given.keys())
    if meaningless and not defaults.uses_tokens:
        raise InvalidModel(f"{model} has no visual tokens and takes no {', '.join(meaningless)}")
    return dataclasses.replace(defaults, **given)


def build(dimensions: Dimensions) -> nn.Module:
    """A freshly initialised network of these dimensions."""
    match dimensions.family:
        case "resnet":
            return ResNet(
                dimensions.depth,
                classes=dimensions.classes,
                stride_in_1x1=dimensions.stride_in_1x1,
            )
        case "vt_resnet":
            return _vt_resnet(dimensions)
        case "fpn" | "vt_fpn":
            return _segmentation_network(dimensions)


def _vt_resnet(dimensions: Dimensions) -> VTResNet:
    trunk = ResNet(
        dimensions.depth,
        classes=None,
        stages=STRIDE_16_STAGES,
        stride_in_1x1=dimensions.stride_in_1x1,
    )
    channels = stage_channels(dimensions.depth)[STRIDE_16_STAGES - 1]
    count = VT_MODULES[dimensions.depth]
    modules = []
    for index in range(count):
        last = index == count - 1
        continues = index > 0 and not dimensions.projector
        tokenizer = None if continues else _tokenizer(dimensions, channels, first=index == 0)
        projector = None
        if dimensions.projector and not last:
            out_channels = VT_OUT_CHANNELS[dimensions.depth]
            projector = Projector(channels, TOKEN_CHANNELS, out_channels)
            channels = out_channels
        modules.append(
            VisualTransformer(tokenizer, _relation(dimensions, dimensions.tokens), projector)
        )
    return VTResNet(trunk, modules, TOKEN_CHANNELS, dimensions.classes)


def _segmentation_network(dimensions: Dimensions) -> SegmentationNetwork:
    backbone = ResNet(dimensions.depth, classes=None, stride_in_1x1=dimensions.stride_in_1x1)
    in_channels = stage_channels(dimensions.depth)
    pyramid: nn.Module
    if dimensions.family == "fpn":
        pyramid = FeaturePyramid(in_channels)
    else:
        coarsest = len(STRIDES) - 1
        pyramid = VTFeaturePyramid(
            in_channels,
            [
                _tokenizer(dimensions, PYRAMID_CHANNELS, first=level == coarsest, value=False)
                for level in range(len(STRIDES))
            ],
            _relation(dimensions, dimensions.tokens * len(STRIDES)),
            TOKEN_CHANNELS,
        )
    return SegmentationNetwork(backbone, pyramid, dimensions.classes)


def _tokenizer(
    dimensions: Dimensions, channels: int, *, first: bool, value: bool = True
) -> nn.Module:
    """The tokenizer of one VT module or pyramid level, as in the published ablation.

    `pooling` and `filter` are used everywhere. Otherwise all tokenizers after the first are
    recurrent, except that a VT-FPN, whose levels are parallel, uses `clustering` on every level.
    """
    tokens = dimensions.tokens
    guided = dimensions.tokenizer == "recurrent" or (
        dimensions.tokenizer == "clustering" and dimensions.family == "vt_resnet"
    )
    if guided and not first:
        return RecurrentTokenizer(channels, TOKEN_CHANNELS, value)
    match dimensions.tokenizer:
        case "pooling":
            return PoolingTokenizer(channels, TOKEN_CHANNELS, tokens)
        case "clustering":
            return ClusteringTokenizer(channels, TOKEN_CHANNELS, tokens, value)
        case _:
            return FilterTokenizer(channels, TOKEN_CHANNELS, tokens, value)


def _relation(dimensions: Dimensions, tokens: int) -> nn.Module:
    match dimensions.token_relation:
        case "graph":
            return GraphConvolution(TOKEN_CHANNELS, tokens)
        case "none":
            return TokenLinear(TOKEN_CHANNELS)
        case _:
            return Transformer(TOKEN_CHANNELS, dimensions.heads)
