"""The learning curve is a picture, regardless of which epochs were evaluated."""

import io

import numpy as np
import pytest
from PIL import Image

from model_export.training.learning_curve import learning_curve

LOSSES = [{"epoch": epoch, "train_loss": 2 / epoch, "train_seconds": 9.0} for epoch in range(1, 6)]


def evaluated(every: int, **metrics: float) -> list[dict[str, float]]:
    return [row | (metrics if row["epoch"] % every == 0 else {}) for row in LOSSES]


def picture(rows, title: str = "vt_resnet18, seed 0") -> np.ndarray:
    image = Image.open(io.BytesIO(learning_curve(rows, title)))
    assert (image.format, image.mode) == ("PNG", "RGBA")
    assert image.width > 600 > image.height > 300
    return np.asarray(image.convert("RGB"))


def has_color(pixels: np.ndarray, color: tuple[int, int, int]) -> bool:
    return bool((np.abs(pixels.astype(int) - color).max(axis=2) < 8).any())


GREY, BLUE, GREEN = (154, 165, 177), (31, 111, 235), (45, 164, 78)


@pytest.mark.parametrize(
    ("rows", "colors"),
    [
        (LOSSES, [GREY]),
        (LOSSES[:1], [GREY]),
        (evaluated(1, top1=0.5, top5=0.9), [GREY, BLUE]),
        (evaluated(2, top1=0.5, top5=0.9), [GREY, BLUE]),
        (evaluated(5, miou=0.4, pixel_accuracy=0.8), [GREY, BLUE, GREEN]),
    ],
    ids=["never", "one epoch", "every", "every other", "the last"],
)
def test_it_shows_the_loss_and_the_evaluated_metrics(rows, colors):
    pixels = picture(rows)
    assert [each for each in (GREY, BLUE, GREEN) if has_color(pixels, each)] == colors


def test_the_same_rows_give_the_same_picture_under_their_title():
    rows = evaluated(1, top1=0.5)
    assert np.array_equal(picture(rows), picture(rows))
    assert not np.array_equal(picture(rows), picture(rows, "resnet18, seed 1"))
    assert learning_curve(rows, "a") == learning_curve(rows, "a")
