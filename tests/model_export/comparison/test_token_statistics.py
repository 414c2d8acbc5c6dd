"""Token statistics follow their definitions; their distributions have bins of equal size."""

import numpy as np
import pytest

from model_export.comparison.token_statistics import (
    TokenStatistics,
    distribution,
    token_statistics,
)


def uniform(*shape: int) -> np.ndarray:
    return np.full(shape, 1 / (shape[-2] * shape[-1]), np.float32)


def one_cell(*shape: int) -> np.ndarray:
    attention = np.zeros(shape, np.float32)
    attention[..., 0, 0] = 1
    return attention


def test_uniform_attention_has_entropy_1_and_a_single_cell_0():
    attention = np.stack([uniform(2, 4, 3, 5), one_cell(2, 4, 3, 5)], axis=1)
    statistics = token_statistics({"token_attention": attention})
    np.testing.assert_allclose(statistics["attention_entropy_module_1"], [1, 1], atol=1e-6)
    np.testing.assert_allclose(statistics["attention_entropy_module_2"], [0, 0], atol=1e-6)


def test_each_level_has_its_own_entropy():
    outputs = {
        "token_attention_stride_4": uniform(3, 2, 8, 8),
        "token_attention_stride_8": one_cell(3, 2, 4, 4),
    }
    statistics = token_statistics(outputs)
    assert list(statistics) == ["attention_entropy_stride_4", "attention_entropy_stride_8"]
    np.testing.assert_allclose(statistics["attention_entropy_stride_4"], 1, atol=1e-6)


def test_the_similarity_is_the_mean_cosine_of_different_tokens():
    tokens = np.array([[[1, 0], [3, 0], [0, 2]], [[1, 1], [2, 2], [5, 5]]], np.float32)
    statistics = token_statistics({"tokens": tokens})
    np.testing.assert_allclose(statistics["token_similarity"], [1 / 3, 1], atol=1e-6)


def test_a_network_without_tokens_has_no_statistics():
    observed = TokenStatistics(lambda images: {"logits": np.zeros((len(images), 3))})
    observed(np.zeros((4, 8, 8, 3), np.uint8))
    assert observed.reference() == {}


def test_the_statistics_of_all_batches_are_one_distribution():
    chance = np.random.default_rng(0)
    observed = TokenStatistics(
        lambda images: {"tokens": chance.normal(size=(len(images), 4, 16)).astype(np.float32)}
    )
    for _ in range(10):
        observed(np.zeros((20, 8, 8, 3), np.uint8))
    reference = observed.reference()["token_statistics"]["token_similarity"]
    assert len(reference["bounds"]) == 9
    np.testing.assert_allclose(reference["shares"], 0.1, atol=0.011)


@pytest.mark.parametrize(("count", "bins"), [(39, None), (40, 2), (101, 5), (1000, 10)])
def test_there_are_at_most_ten_bins_of_at_least_twenty_images(count, bins):
    found = distribution(np.arange(count) / count)
    assert (None if found is None else len(found["shares"])) == bins
    if found is not None:
        assert sum(found["shares"]) == pytest.approx(1, abs=1e-5)


def test_equal_values_share_a_bin():
    found = distribution(np.repeat([0.25, 0.5], [90, 10]))
    assert found == {"bounds": [0.25], "shares": [0.9, 0.1]}


def test_values_that_are_not_numbers_have_no_distribution():
    assert distribution(np.full(100, np.nan)) is None
