"""Photos decoded at a reduced scale, compared with photos decoded in full."""

from collections.abc import Callable

import numpy as np
import pytest

from model_export.comparison import scaled_decoding as module
from model_export.comparison.evaluation import data_sha256
from model_export.comparison.scaled_decoding import scaled_decoding
from model_export.preprocessing import Preprocessing, RgbArray, Squash
from model_export.samples import Sample
from tests.service.photos import noise

RULE = Preprocessing(Squash(32, 32))


@pytest.fixture
def samples(tmp_path, monkeypatch) -> list[Sample]:
    monkeypatch.setattr(module, "PIXELS", 160_000)
    for index in range(5):
        noise(16, 16, index).save(tmp_path / f"{index}.png")
    return [Sample(path, 0) for path in sorted(tmp_path.iterdir())]


def predicts(classes: Callable[[RgbArray], int]):
    """A classifier of two classes."""
    return lambda images: {"logits": np.eye(2)[[classes(image) for image in images]]}


def test_photos_are_enlarged_and_decoded_both_ways(samples):
    shapes = []

    def seen(image: RgbArray) -> int:
        shapes.append(image.shape)
        return 0

    result = scaled_decoding(predicts(seen), samples, RULE, data="noise", images=9)
    assert shapes == [(32, 32, 3)] * 10
    assert 0 < result["mean_absolute_difference"] < 2
    del result["mean_absolute_difference"]
    assert result.pop("sha256") != data_sha256(samples)  # they are in another order
    assert result == {
        "data": "noise",
        "images": 5,
        "megapixels": 0.16,
        "agreement": 1.0,
        "limit": 0.995,
    }


def test_the_agreement_is_the_share_of_equal_answers(samples):
    turns = iter([0, 0, 0, 1, 1, 1, 1, 0])
    result = scaled_decoding(predicts(lambda _: next(turns)), samples, RULE, data="noise", images=4)
    assert (result["agreement"], result["images"]) == (0.5, 4)


def test_the_sample_is_always_the_same(samples):
    results = [
        scaled_decoding(predicts(lambda _: 0), samples, RULE, data="noise", images=2)
        for _ in range(2)
    ]
    assert results[0] == results[1]
