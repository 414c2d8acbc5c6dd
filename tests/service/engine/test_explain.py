"""Where the tokens of tiny models look, and what they contribute, is known."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.engine.engine import Engine
from service.errors import InferenceFailed, InvalidRequest, ModelNotFound
from service.schema.predictions import TokenMap
from service.settings import Settings
from tests.service.photos import BLUE, GREEN, RED, encode, solid
from tests.service.token_models import write_token_classifier, write_token_models


def halves(left: tuple, right: tuple, size: tuple[int, int] = (64, 64)) -> Image.Image:
    image = solid(right, size)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


PHOTO = encode(halves(RED, GREEN))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    settings = Settings(model_repository=write_token_models(tmp_path))
    async with Engine.from_settings(settings) as running:
        yield running


def levels(token: TokenMap, grid: tuple[int, int]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(token["attention"]), np.uint8).reshape(grid)


async def test_each_token_of_a_classifier_looks_where_its_colour_is(engine: Engine) -> None:
    photo = encode(halves(RED, GREEN, (8, 8)))
    result = await engine.explain([photo], model="halves")
    assert (result["model"], result["version"], result["task"]) == ("halves", "1", "classification")
    (prediction,) = result["predictions"]
    weak, strong = prediction["modules"]
    assert [weak["name"], strong["name"]] == ["module_1", "module_2"]
    assert weak["grid"] == strong["grid"] == (8, 8)
    red, green = (levels(token, (8, 8)) for token in strong["tokens"])
    assert (red[:, :4] == 255).all()
    assert (red[:, 4:] == 0).all()
    assert (green == red[:, ::-1]).all()
    red_token, green_token = strong["tokens"]
    assert red_token["centre"] == pytest.approx((2, 4))
    assert green_token["centre"] == pytest.approx((6, 4))
    assert red_token["maximum"] == pytest.approx(1 / 32, rel=0.01)
    assert red_token["share"] == pytest.approx(0.5, abs=0.01)
    assert red_token["entropy"] == pytest.approx(np.log(32) / np.log(64), abs=0.01)
    assert weak["tokens"][0]["entropy"] > red_token["entropy"]


async def test_the_contributions_sum_to_the_logit_less_its_bias(engine: Engine) -> None:
    for name, index in ((None, 1), ("red", 0), ("2", 2)):
        result = await engine.explain([PHOTO], model="halves", class_name=name)
        (prediction,) = result["predictions"]
        explained = prediction["explained"]
        assert explained["index"] == index
        tokens = prediction["modules"][1]["tokens"]
        contributions = [token["contribution"] for token in tokens]
        expected = explained["logit"] - explained["bias"]
        assert sum(contributions) == pytest.approx(expected, abs=1e-4)
        assert "contribution" not in prediction["modules"][0]["tokens"][0]
    red = (await engine.explain([PHOTO], model="halves", class_name="red"))["predictions"][0]
    left, right = (token["contribution"] for token in red["modules"][1]["tokens"])
    assert left > 10 * right > 0


async def test_the_most_likely_classes_are_those_of_a_classification(engine: Engine) -> None:
    explained = (await engine.explain([PHOTO], model="halves", top_k=2))["predictions"][0]
    classified = (await engine.classify([PHOTO], model="halves", top_k=2))["predictions"][0]
    assert explained["classes"] == classified["classes"]
    assert explained["explained"]["score"] == classified["classes"][0]["score"]


async def test_the_final_tokens_have_similarities(engine: Engine) -> None:
    (prediction,) = (await engine.explain([PHOTO], model="halves"))["predictions"]
    assert [module["similarity_row"] for module in prediction["modules"]] == [None, 0]
    assert np.diag(prediction["similarity"]) == pytest.approx([1, 1])
    assert prediction["similarity"][0][1] < 0.2
    (prediction,) = (await engine.explain([PHOTO], model="levels"))["predictions"]
    assert [module["similarity_row"] for module in prediction["modules"]] == [0, 2]
    assert np.array(prediction["similarity"]) == pytest.approx(np.ones((4, 4)))


async def test_maps_are_placed_where_the_crop_was_in_the_upright_photo(engine: Engine) -> None:
    """The photo is stored on its side: red left and green right become red top, green bottom."""
    photo = halves(RED, GREEN, (128, 64))
    exif = photo.getexif()
    exif[0x0112] = 6
    data = encode(photo, "JPEG", exif=exif, quality=95)
    (prediction,) = (await engine.explain([data], model="halves"))["predictions"]
    assert (prediction["width"], prediction["height"]) == (64, 128)
    assert prediction["box"] == (0, 32, 64, 96)
    red, green = prediction["modules"][1]["tokens"]
    assert red["centre"] == pytest.approx((32, 48), abs=5)
    assert green["centre"] == pytest.approx((32, 80), abs=5)


async def test_each_level_of_a_segmenter_has_its_own_grid(engine: Engine) -> None:
    photos = [encode(halves(RED, GREEN, (96, 64))), encode(halves(GREEN, RED, (64, 64)))]
    result = await engine.explain(photos, model="levels")
    first, second = result["predictions"]
    assert [module["grid"] for module in first["modules"]] == [(16, 24), (8, 12)]
    assert [module["grid"] for module in second["modules"]] == [(16, 16), (8, 8)]
    assert [module["name"] for module in first["modules"]] == ["stride_4", "stride_8"]
    assert first["modules"][0]["tokens"][0]["centre"][0] < 48
    assert second["modules"][0]["tokens"][0]["centre"][0] > 32
    assert not {"classes", "explained"} & first.keys()


async def test_a_model_may_be_omitted_only_if_there_is_one(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"Name one of the models in `model`: halves, levels"):
        await engine.explain([PHOTO])
    with pytest.raises(ModelNotFound, match="There is no model lions"):
        await engine.explain([PHOTO], model="lions")
    write_token_classifier(tmp_path / "alone")
    async with Engine.from_settings(Settings(model_repository=tmp_path / "alone")) as alone:
        assert (await alone.explain([PHOTO]))["model"] == "halves"


async def test_an_unknown_class_is_rejected_with_the_choices(engine: Engine) -> None:
    for name in ("lion", "3", "-1", "²", "9" * 40):
        with pytest.raises(InvalidRequest, match="the classes are red, green, blue"):
            await engine.explain([PHOTO], model="halves", class_name=name)
    with pytest.raises(InvalidRequest, match="only classifiers with tokens can"):
        await engine.explain([PHOTO], model="levels", class_name="red")


async def test_a_version_without_a_head_has_maps_but_no_contributions(tmp_path: Path) -> None:
    write_token_classifier(tmp_path / "old", head=None)
    async with Engine.from_settings(Settings(model_repository=tmp_path / "old")) as engine:
        (prediction,) = (await engine.explain([PHOTO]))["predictions"]
        assert "explained" not in prediction
        assert "contribution" not in prediction["modules"][1]["tokens"][0]
        with pytest.raises(InvalidRequest, match="exported with their head"):
            await engine.explain([PHOTO], class_name="red")


async def test_a_model_without_attention_is_rejected(repository: Path) -> None:
    async with Engine.from_settings(Settings(model_repository=repository)) as engine:
        with pytest.raises(InvalidRequest, match="The model pixels has no attention maps"):
            await engine.explain([PHOTO], model="pixels")


async def test_a_photo_of_one_colour_is_explained(engine: Engine) -> None:
    (prediction,) = (await engine.explain([encode(solid(BLUE))], model="halves"))["predictions"]
    assert prediction["explained"]["label"] == "blue"
    assert prediction["modules"][1]["tokens"][0]["entropy"] == pytest.approx(1)


async def test_tokens_that_are_not_numbers_are_the_models_failure(engine: Engine) -> None:
    instance = engine.repository.get("halves").ready_instance()
    nothing = np.full((1, 2, 2, 8, 8), np.nan, np.float32)
    results = {"logits": np.zeros((1, 3), np.float32), "tokens": np.zeros((1, 2, 3), np.float32)}

    def run(_images: list, names: list[str]) -> list:
        return [(results | {"token_attention": nothing})[name] for name in names]

    for session in instance._sessions._sessions.values():
        session.run = run
    with pytest.raises(InferenceFailed, match="not a distribution"):
        await engine.explain([PHOTO], model="halves")
