"""The parts of a VT module obey the paper's equations for any weights."""

import math

import pytest
import torch
from torch import nn

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
from tests.model_export.networks import features, randomised

CHANNELS, TOKEN_CHANNELS, TOKENS = 128, 256, 8


def tokenizer_of(kind: str) -> nn.Module:
    match kind:
        case "filter":
            module = FilterTokenizer(CHANNELS, TOKEN_CHANNELS, TOKENS)
        case "recurrent":
            module = RecurrentTokenizer(CHANNELS, TOKEN_CHANNELS)
        case "clustering":
            module = ClusteringTokenizer(CHANNELS, TOKEN_CHANNELS, TOKENS)
    return randomised(module)


def visual_tokens(seed: int = 5) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(2, TOKEN_CHANNELS, TOKENS, generator=chance)


def shuffled_pixels(x: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    return x.flatten(2)[:, :, order].reshape(x.shape)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("kind", ["filter", "recurrent", "clustering"])
def test_each_token_spreads_an_attention_of_1_over_the_pixels(kind):
    tokens, attention = tokenizer_of(kind)(features(CHANNELS), visual_tokens())
    assert tokens.shape == (2, TOKEN_CHANNELS, TOKENS)
    assert attention.shape == (2, TOKENS, 30)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(2, TOKENS))
    assert attention.std(dim=2).min() > 0.001  # and not the same everywhere


@pytest.mark.parametrize("kind", ["filter", "recurrent"])
def test_the_order_of_the_pixels_leaves_the_tokens_unchanged(kind):
    tokenizer, x = tokenizer_of(kind), features(CHANNELS)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    tokens, attention = tokenizer(x, visual_tokens())
    again, moved = tokenizer(shuffled_pixels(x, order), visual_tokens())
    torch.testing.assert_close(again, tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved, attention[:, :, order], rtol=1e-4, atol=1e-6)


def test_filter_tokens_are_equation_1():
    tokenizer, x = tokenizer_of("filter"), features(CHANNELS)
    pixels = x.flatten(2).transpose(1, 2)  # [B, N, C]: the paper's X
    attention = torch.softmax(
        pixels @ tokenizer.coef.weight.flatten(1).T / math.sqrt(CHANNELS), dim=1
    )
    values = tokenizer.value(x).flatten(2).transpose(1, 2)
    expected = tokenizer.out((attention.transpose(1, 2) @ values).transpose(1, 2))
    torch.testing.assert_close(tokenizer(x).tokens, expected, rtol=1e-4, atol=1e-5)


def test_recurrent_tokens_are_equation_2():
    tokenizer, x = tokenizer_of("recurrent"), features(CHANNELS)
    guides = tokenizer.query(visual_tokens()).transpose(1, 2)  # [B, L, C]: the paper's W_R
    attention = torch.softmax(guides @ tokenizer.key(x).flatten(2) / math.sqrt(CHANNELS), dim=2)
    values = tokenizer.value(x).flatten(2).transpose(1, 2)
    expected = tokenizer.out((attention @ values).transpose(1, 2))
    torch.testing.assert_close(tokenizer(x, visual_tokens()).tokens, expected, rtol=1e-4, atol=1e-5)


def test_permuting_a_filter_tokenizers_coefficients_permutes_its_tokens():
    tokenizer, x = tokenizer_of("filter"), features(CHANNELS)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    tokens, attention = tokenizer(x)
    tokenizer.coef.weight.copy_(tokenizer.coef.weight[order])
    torch.testing.assert_close(tokenizer(x).tokens, tokens[:, :, order])
    torch.testing.assert_close(tokenizer(x).attention, attention[:, order])


def test_permuting_the_guiding_tokens_permutes_a_recurrent_tokenizers_tokens():
    tokenizer, x, guides = tokenizer_of("recurrent"), features(CHANNELS), visual_tokens()
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    expected = tokenizer(x, guides).tokens[:, :, order]
    torch.testing.assert_close(tokenizer(x, guides[:, :, order]).tokens, expected)


def test_pooling_tokens_are_the_cells_of_the_map():
    tokenizer = randomised(PoolingTokenizer(CHANNELS, TOKEN_CHANNELS, 4))
    x = torch.zeros(1, CHANNELS, 4, 4)
    x[:, :, 2:, :2] = 1.0  # the third of four cells
    tokens, attention = tokenizer(x)
    assert attention is None
    lit, dark = (tokenizer.out(torch.full((1, CHANNELS, 1), v))[:, :, 0] for v in (1.0, 0.0))
    for cell in range(4):
        torch.testing.assert_close(tokens[:, :, cell], lit if cell == 2 else dark)


@pytest.mark.parametrize(
    ("tokens", "cells"), [(1, (1, 1)), (8, (2, 4)), (16, (4, 4)), (32, (4, 8)), (64, (8, 8))]
)
def test_a_pooling_grid_has_as_many_cells_as_tokens_and_is_nearly_square(tokens, cells):
    assert PoolingTokenizer(64, 64, tokens).cells == cells


def test_centroids_have_unit_norm():
    centroids = tokenizer_of("clustering")._centroids(features(CHANNELS))
    torch.testing.assert_close(centroids.norm(dim=1), torch.ones(2, TOKENS))


def test_clusters_that_are_far_apart_are_found():
    """Four directions, one per quadrant: each becomes a centroid."""
    tokenizer = randomised(ClusteringTokenizer(64, 64, 4))
    directions = torch.linalg.qr(torch.randn(64, 4, generator=torch.Generator().manual_seed(0)))[0]
    x = torch.zeros(1, 64, 4, 4)
    for cell in range(4):
        row, column = divmod(cell, 2)
        block = x[0, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        block.copy_(directions[:, cell, None, None] * (cell + 1))  # lengths do not matter
    torch.testing.assert_close(tokenizer._centroids(x)[0], directions, rtol=1e-4, atol=1e-5)


def test_two_steps_move_each_centroid_to_the_mean_direction_of_its_pixels():
    """Lloyd's algorithm pixel by pixel: every pixel belongs to exactly one centroid."""
    tokenizer = randomised(ClusteringTokenizer(64, 64, TOKENS))
    x = features(64, batch=1, height=14, width=14)
    pixels = nn.functional.normalize(x.flatten(2), dim=1)[0]
    start = nn.functional.interpolate(x, size=(2, 4), mode="bilinear").flatten(2)[0]
    centroids, seen = nn.functional.normalize(start, dim=0), []
    for _ in range(2):
        nearest = [int((centroids.T @ pixels[:, pixel]).argmax()) for pixel in range(14 * 14)]
        seen.append(nearest)
        for token in range(TOKENS):
            own = [pixel for pixel, owner in enumerate(nearest) if owner == token]
            if own:
                mean = pixels[:, own].sum(dim=1)
                centroids[:, token] = mean / mean.norm()
    assert seen[0] != seen[1]  # the second step matters here
    torch.testing.assert_close(tokenizer._centroids(x)[0], centroids, rtol=1e-4, atol=1e-5)


def test_a_centroid_without_pixels_stays_where_it_was():
    """On a constant map all pixels fall to the first centroid."""
    x = torch.full((1, CHANNELS, 6, 5), 1.5)
    centroids = tokenizer_of("clustering")._centroids(x)
    torch.testing.assert_close(centroids, torch.full_like(centroids, CHANNELS**-0.5))


@pytest.mark.parametrize("value", [0.0, 1.5], ids=["all zero", "constant"])
def test_a_constant_map_clusters_without_becoming_nan(value):
    tokens, attention = tokenizer_of("clustering")(torch.full((2, CHANNELS, 6, 5), value))
    assert torch.isfinite(tokens).all()
    torch.testing.assert_close(attention, torch.full_like(attention, 1 / 30))


def test_clustering_passes_a_gradient_to_the_map():
    x = features(CHANNELS).requires_grad_()
    with torch.enable_grad():
        tokenizer_of("clustering")(x).tokens.square().sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize("heads", [1, 4])
def test_a_transformer_is_equation_3(heads):
    transformer = randomised(Transformer(TOKEN_CHANNELS, heads))
    tokens = visual_tokens()
    rows = [part(tokens).transpose(1, 2) for part in (transformer.k, transformer.q, transformer.v)]
    attended = []
    for head in range(heads):
        k, q, v = (row.chunk(heads, dim=2)[head] for row in rows)
        attention = torch.softmax(k @ q.transpose(1, 2) / math.sqrt(k.shape[2]), dim=2)
        attended.append(attention @ v)
    related = tokens + torch.cat(attended, dim=2).transpose(1, 2)
    expected = related + transformer.f2(torch.relu(transformer.f1(related)))
    torch.testing.assert_close(transformer(tokens), expected, rtol=1e-4, atol=1e-4)


def test_heads_are_a_dimension_with_an_effect():
    one, four = (randomised(Transformer(TOKEN_CHANNELS, heads)) for heads in (1, 4))
    four.load_state_dict(one.state_dict())
    assert not torch.allclose(one(visual_tokens()), four(visual_tokens()), atol=1e-3)


@pytest.mark.parametrize(
    "relation",
    [Transformer(TOKEN_CHANNELS), Transformer(TOKEN_CHANNELS, 4), TokenLinear(TOKEN_CHANNELS)],
    ids=["transformer", "transformer with 4 heads", "none"],
)
def test_permuting_the_tokens_permutes_the_output(relation):
    relation = randomised(relation)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    expected = relation(visual_tokens())[:, :, order]
    actual = relation(visual_tokens()[:, :, order])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_without_a_relation_tokens_do_not_influence_each_other():
    relation = randomised(TokenLinear(TOKEN_CHANNELS))
    changed = visual_tokens()
    changed[:, :, 0] = 9.0
    torch.testing.assert_close(relation(changed)[:, :, 1:], relation(visual_tokens())[:, :, 1:])


def test_a_graph_convolution_mixes_the_tokens_by_its_adjacency():
    relation = randomised(GraphConvolution(TOKEN_CHANNELS, TOKENS))
    linear = relation.linear(visual_tokens()).transpose(1, 2)  # [B, L, C_T]
    expected = visual_tokens() + (relation.adjacency @ linear).transpose(1, 2)
    torch.testing.assert_close(relation(visual_tokens()), expected)


@pytest.fixture(params=[(128, 128), (128, 512)], ids=["identity shortcut", "1x1 shortcut"])
def projector(request) -> Projector:
    in_channels, out_channels = request.param
    return randomised(Projector(in_channels, TOKEN_CHANNELS, out_channels))


def test_each_pixel_spreads_an_attention_of_1_over_the_tokens(projector):
    attention = projector.attention(features(CHANNELS), visual_tokens())
    assert attention.shape == (2, TOKENS, 30)
    torch.testing.assert_close(attention.sum(dim=1), torch.ones(2, 30))
    assert attention.std(dim=1).min() > 0.001


def test_a_projector_whose_token_values_are_0_returns_its_shortcut(projector):
    x = features(CHANNELS)
    shortcut = projector.shortcut(x)
    assert not torch.allclose(projector(x, visual_tokens()), shortcut, atol=1e-3)
    projector.value[0].weight.zero_()
    projector.value[1].running_mean.zero_()
    projector.value[1].bias.zero_()
    torch.testing.assert_close(projector(x, visual_tokens()), shortcut, rtol=0, atol=0)


def test_permuting_the_pixels_permutes_the_projected_map(projector):
    x = features(CHANNELS)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    expected = shuffled_pixels(projector(x, visual_tokens()), order)
    actual = projector(shuffled_pixels(x, order), visual_tokens())
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_permuting_the_tokens_leaves_the_projected_map_unchanged(projector):
    x, order = features(CHANNELS), torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    expected = projector(x, visual_tokens())
    actual = projector(x, visual_tokens()[:, :, order])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)
