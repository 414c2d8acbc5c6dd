"""Labels and confidence from scores, compared with scores of every pixel."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import InferenceFailed
from service.images import scores as module
from service.images.scores import check_scores, confidence_map, mean_confidence, smooth_labels


def every_score(scores: np.ndarray, width: int, height: int) -> np.ndarray:
    """Scale each class bilinearly with half-pixel centres: [classes, height, width]."""
    _, rows, columns = scores.shape
    y = ((np.arange(height) + 0.5) * rows / height - 0.5).clip(0, rows - 1)
    x = ((np.arange(width) + 0.5) * columns / width - 0.5).clip(0, columns - 1)
    top, left = np.floor(y).astype(int), np.floor(x).astype(int)
    bottom, right = np.minimum(top + 1, rows - 1), np.minimum(left + 1, columns - 1)
    down, across = (y - top)[:, None], x - left
    above = scores[:, top][:, :, left] * (1 - across) + scores[:, top][:, :, right] * across
    below = scores[:, bottom][:, :, left] * (1 - across) + scores[:, bottom][:, :, right] * across
    return above * (1 - down) + below * down


def random_scores(seed: int, shape: tuple[int, int, int], smoothness: int) -> np.ndarray:
    """Noise, or, with more smoothness, larger and larger areas."""
    classes, rows, columns = shape
    small = (columns // smoothness + 1, rows // smoothness + 1)
    noise = np.random.default_rng(seed).normal(size=(classes, small[1], small[0]))
    planes = [Image.fromarray(plane.astype(np.float32)) for plane in noise]
    return np.stack(
        [np.asarray(each.resize((columns, rows), Image.Resampling.BICUBIC)) for each in planes]
    )


sides = st.integers(1, 12)


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 5), sides, sides),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from([1, 4]),
    st.sampled_from([1, 1 << 14]),
)
@settings(max_examples=150, deadline=None)
def test_smooth_labels_are_those_of_the_scores_of_every_pixel(
    seed: int, shape: tuple[int, int, int], size: tuple[int, int], smoothness: int, band: int
) -> None:
    scores = random_scores(seed, shape, smoothness)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BAND_PIXELS", band)
        patch.setattr(module, "STRIP_PIXELS", 100)
        labels = smooth_labels(scores, *size)
    expected = every_score(scores, *size)
    chosen = np.take_along_axis(expected, labels[None].astype(int), axis=0)[0]
    assert labels.shape == size[::-1]
    assert (chosen >= expected.max(axis=0) - 1e-5).all()


def test_a_class_can_win_between_cells_where_it_is_second() -> None:
    scores = np.array([[[10, 0]], [[0, 10]], [[6, 6]]], np.float32)
    assert 2 in smooth_labels(scores, 40, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_not_a_number_is_a_failed_inference(value: float) -> None:
    with pytest.raises(InferenceFailed):
        check_scores(np.array([[[1, value]]], np.float32))


def test_scores_of_other_floats_are_converted() -> None:
    assert check_scores(np.ones((1, 1, 1), np.float16)).dtype == np.float32


def test_confidence_is_the_softmax_of_the_best_class() -> None:
    scores = np.log(np.array([[[0.75, 0.5]], [[0.25, 0.5]]], np.float32))
    assert confidence_map(scores, 2, 1).tolist() == [[191, 128]]
    assert confidence_map(scores, 20, 10).shape == (10, 20)


def test_the_confidence_of_a_class_is_the_mean_over_its_pixels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "STRIP_PIXELS", 2)
    labels = np.array([[0, 0], [2, 0]], np.uint8)
    confidence = np.array([[255, 0], [51, 255]], np.uint8)
    assert mean_confidence(labels, confidence, 3) == [0.666667, 0.0, 0.2]
