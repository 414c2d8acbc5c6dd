"""Token statistics follow their definitions, on maps whose values are known."""

import numpy as np
import pytest

from service.errors import InferenceFailed
from service.images.attention import attention, attention_by_module, normalized, similarity


def cell(rows: int, columns: int, row: int, column: int) -> np.ndarray:
    array = np.zeros((rows, columns), np.float32)
    array[row, column] = 1
    return array


def test_uniform_attention_has_entropy_1_and_its_centre_in_the_middle() -> None:
    found = attention(np.full((1, 3, 5), 1 / 15, np.float32))
    assert found.entropy == pytest.approx([1])
    assert found.centre[0] == pytest.approx([0.5, 0.5])
    assert found.maximum == pytest.approx([1 / 15])
    assert (found.levels() == 255).all()


def test_attention_on_one_cell_has_entropy_0_and_its_centre_there() -> None:
    found = attention(cell(2, 4, 1, 0)[None])
    assert found.entropy == pytest.approx([0])
    assert found.centre[0] == pytest.approx([1 / 8, 3 / 4])
    assert found.levels()[0].tolist() == [[0, 0, 0, 0], [255, 0, 0, 0]]


def test_a_grid_of_one_cell_has_no_entropy() -> None:
    assert attention(np.ones((1, 1, 1), np.float32)).entropy == pytest.approx([0])


def test_the_shares_of_a_module_sum_to_1_and_a_cell_goes_to_those_that_look_at_it() -> None:
    maps = np.stack([cell(1, 4, 0, 0), np.array([[0, 1 / 3, 1 / 3, 1 / 3]], np.float32)])
    assert attention(maps).share == pytest.approx([1 / 4, 3 / 4])
    nobody = attention(np.stack([cell(1, 4, 0, 0), cell(1, 4, 0, 0)]))
    assert nobody.share == pytest.approx([1 / 2, 1 / 2])


def test_each_map_is_scaled_by_its_own_maximum() -> None:
    maps = np.array([[[0.75, 0.25]], [[0.5, 0.5]]], np.float32)
    found = attention(maps)
    assert found.levels().tolist() == [[[255, 85]], [[255, 255]]]
    restored = found.levels() / 255 * found.maximum[:, None, None]
    np.testing.assert_allclose(restored, maps, atol=1 / 255)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_attention_that_is_not_a_distribution_is_the_models_failure(value: float) -> None:
    with pytest.raises(InferenceFailed, match="not a distribution"):
        attention(np.full((2, 2, 2), value, np.float32))


def test_modules_are_numbered_and_levels_are_named_by_their_stride() -> None:
    maps = np.full((2, 3, 4, 4), 1 / 16, np.float32)
    assert list(attention_by_module({"token_attention": maps})) == ["module_1", "module_2"]
    levels = {f"token_attention_stride_{stride}": maps[0] for stride in (4, 8)}
    other = {"tokens": np.zeros((3, 8)), "logits": np.zeros(3)}
    assert list(attention_by_module(other | levels)) == ["stride_4", "stride_8"]


def test_the_similarity_is_the_cosine_of_each_pair() -> None:
    tokens = np.array([[1, 0], [3, 3], [0, -2], [0, 0]], np.float32)
    half = 0.5**0.5
    expected = [[1, half, 0, 0], [half, 1, -half, 0], [0, -half, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(similarity(tokens), expected, atol=1e-6)


def test_normalized_vectors_have_length_1_and_zeros_stay() -> None:
    vectors = normalized(np.array([[[3, 4]], [[0, 0]]], np.float16))
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, [[[0.6, 0.8]], [[0, 0]]], atol=1e-6)
