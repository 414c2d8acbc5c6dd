"""Embeddings are the tokens of tiny models, whose values are known."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from service.engine.engine import Engine
from service.errors import InvalidRequest, PayloadTooLarge
from service.settings import Settings
from tests.service.photos import BLUE, GREEN, RED, encode, solid
from tests.service.token_models import write_token_models

PHOTOS = [encode(solid(RED)), encode(solid(GREEN)), encode(solid(BLUE))]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    settings = Settings(model_repository=write_token_models(tmp_path), max_images_per_request=3)
    async with Engine.from_settings(settings) as running:
        yield running


@pytest.mark.parametrize(("model", "tokens"), [("halves", 2), ("levels", 4)])
async def test_a_photo_becomes_the_mean_of_its_tokens(
    engine: Engine, model: str, tokens: int
) -> None:
    means = await engine.embed(PHOTOS, model=model)
    assert means.dtype == np.float32
    np.testing.assert_allclose(means, 255 * np.eye(3))
    every = await engine.embed(PHOTOS, model=model, tokens=True)
    assert every.shape == (3, tokens, 3)
    np.testing.assert_allclose(every.mean(axis=1), means)


async def test_vectors_have_length_1_on_request(engine: Engine) -> None:
    for tokens in (False, True):
        vectors = await engine.embed(PHOTOS, model="halves", normalize=True, tokens=tokens)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1)


async def test_photos_of_different_sizes_share_a_request(engine: Engine) -> None:
    photos = [encode(solid(RED, (96, 64))), encode(solid(RED, (64, 64)))]
    vectors = await engine.embed(photos, model="levels")
    np.testing.assert_allclose(vectors, [[255, 0, 0]] * 2)


async def test_the_limits_are_those_of_every_prediction(engine: Engine) -> None:
    with pytest.raises(PayloadTooLarge, match="3 images allowed"):
        await engine.embed([*PHOTOS, PHOTOS[0]], model="halves")
    with pytest.raises(InvalidRequest, match="contains no image"):
        await engine.embed([], model="halves")
    with pytest.raises(InvalidRequest, match=r"Image 1 is refused: it cannot be decoded"):
        await engine.embed([PHOTOS[0], PHOTOS[1][:60]], model="halves")


async def test_a_model_without_tokens_is_rejected(repository: Path) -> None:
    async with Engine.from_settings(Settings(model_repository=repository)) as engine:
        with pytest.raises(InvalidRequest, match="The model pixels has no visual tokens"):
            await engine.embed(PHOTOS, model="pixels")
