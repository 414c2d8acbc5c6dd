"""Every model and variant is data; dimensions that cannot be built are refused with a reason."""

import pytest
import torch

from model_export.errors import InvalidModel
from model_export.models.registry import MODELS, Dimensions, build, dimensions_of
from model_export.models.visual_transformer import (
    ClusteringTokenizer,
    FilterTokenizer,
    GraphConvolution,
    PoolingTokenizer,
    RecurrentTokenizer,
    TokenLinear,
    Transformer,
)


def built(model, **changes):
    with torch.device("meta"):
        return build(dimensions_of(model, **changes))


def test_there_are_four_families_at_four_depths():
    families = ("resnet", "vt_resnet", "fpn_resnet", "vt_fpn_resnet")
    assert set(MODELS) == {f"{family}{depth}" for family in families for depth in (18, 34, 50, 101)}


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(InvalidModel) as refusal:
        dimensions_of("vt_resnet19")
    assert "unknown model 'vt_resnet19'" in str(refusal.value)
    assert all(name in str(refusal.value) for name in MODELS)


@pytest.mark.parametrize(
    ("model", "changes", "sentence"),
    [
        (
            "resnet18",
            {"tokenizer": "filter"},
            "has no visual tokens and takes no tokenizer",
        ),
        ("fpn_resnet50", {"tokens": 8, "heads": 2}, "takes no heads, tokens"),
        ("resnet18", {"projector": False}, "has no visual tokens and takes no projector"),
        ("vt_fpn_resnet18", {"projector": False}, "VT-FPN needs its projectors"),
        ("vt_resnet18", {"tokenizer": "magic"}, "tokenizer must be one of filter, recurrent"),
        ("vt_resnet18", {"token_relation": "magic"}, "token_relation must be one of transformer"),
        ("vt_resnet18", {"tokens": 0}, "tokens must be between 1 and 1024, not 0"),
        ("vt_resnet18", {"tokens": 1025}, "tokens must be between 1 and 1024, not 1025"),
        ("vt_resnet18", {"heads": 3}, "heads must divide 512, but 3 does not"),
        ("vt_resnet18", {"heads": 0}, "heads must divide 512, but 0 does not"),
        ("vt_resnet18", {"classes": 0}, "at least 1 class, not 0"),
        ("fpn_resnet18", {"classes": 257}, "at most 256 classes"),
    ],
)
def test_dimensions_that_cannot_be_built_are_refused_with_a_sentence(model, changes, sentence):
    with pytest.raises(InvalidModel, match=sentence):
        dimensions_of(model, **changes)


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"family": "resnet", "depth": 18},
        {"family": "resnet", "depth": 19, "classes": 10},
        {"family": "inception", "depth": 18, "classes": 10},
        {"family": "vt_resnet", "depth": 18, "classes": "10"},
        {"family": "vt_resnet", "depth": 18, "classes": 10, "wheels": 4},
    ],
)
def test_invalid_dimensions_are_refused(data):
    with pytest.raises(InvalidModel):
        Dimensions.from_dict(data)


@pytest.mark.parametrize("model", MODELS)
def test_dimensions_survive_a_round_trip_through_a_dictionary(model):
    dimensions = dimensions_of(model, classes=7, stride_in_1x1=True)
    assert Dimensions.from_dict(dimensions.as_dict()) == dimensions
    assert dimensions.name == model


def test_changed_dimensions_survive_a_round_trip_through_a_dictionary():
    dimensions = dimensions_of(
        "vt_resnet34",
        tokenizer="clustering",
        token_relation="graph",  # noqa: S106
        tokens=32,
        projector=False,
        heads=4,
    )
    assert Dimensions.from_dict(dimensions.as_dict()) == dimensions


def test_the_dictionary_of_a_plain_model_does_not_mention_tokens():
    expected = {"family": "resnet", "depth": 18, "classes": 1000, "stride_in_1x1": False}
    assert dimensions_of("resnet18").as_dict() == expected


@pytest.mark.parametrize(
    ("tokenizer", "first", "second"),
    [
        ("filter", FilterTokenizer, FilterTokenizer),
        ("recurrent", FilterTokenizer, RecurrentTokenizer),
        ("pooling", PoolingTokenizer, PoolingTokenizer),
        ("clustering", ClusteringTokenizer, RecurrentTokenizer),
    ],
)
def test_tokenizers_are_placed_as_in_the_ablation(tokenizer, first, second):
    modules = built("vt_resnet18", tokenizer=tokenizer).visual_transformers
    assert [type(module.tokenizer) for module in modules] == [first, second]


@pytest.mark.parametrize(
    ("relation", "kind"),
    [("transformer", Transformer), ("graph", GraphConvolution), ("none", TokenLinear)],
)
def test_the_token_relation_is_the_same_in_every_module(relation, kind):
    modules = built("vt_resnet34", token_relation=relation).visual_transformers
    assert {type(module.relation) for module in modules} == {kind}


def test_without_projectors_one_tokenizer_feeds_the_transformers_in_series():
    modules = built("vt_resnet34", projector=False).visual_transformers
    assert [module.tokenizer is None for module in modules] == [False, True, True]
    assert all(module.projector is None for module in modules)


def test_recurrent_levels_of_a_vt_fpn_are_guided_from_the_coarsest():
    tokenizers = built("vt_fpn_resnet18", tokenizer="recurrent").pyramid.tokenizers
    kinds = [type(tokenizer) for tokenizer in tokenizers]
    assert kinds == [RecurrentTokenizer] * 3 + [FilterTokenizer]


def test_the_same_seed_builds_the_same_network():
    networks = []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(build(dimensions_of("vt_resnet18", classes=3)).state_dict())
    assert all(torch.equal(value, networks[1][key]) for key, value in networks[0].items())
