"""The forms of a mask, over HTTP, from a model with scores and from one without."""

import base64
import io
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from service.app import create_app
from service.settings import Settings
from tests.service.photos import encode, quarters, solid
from tests.service.repository_fixture import write_scoring_segmenter, write_segmenter

SMALL = encode(quarters(96, 64))
LARGE = encode(quarters(960, 640))
PNG = {"Accept": "image/png"}


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """An application with a model that returns scores, and one that does not: `pixels`."""
    write_segmenter(tmp_path)
    write_scoring_segmenter(tmp_path)
    app = create_app(Settings(model_repository=tmp_path))
    engine = app.state.engine
    await engine.repository.load_all()
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client:
        yield client
    await engine.close()


async def segment(http: httpx.AsyncClient, photo: bytes, **query: Any) -> dict:
    response = await http.post("/v1/segment", params={"model": "scored", **query}, content=photo)
    assert response.status_code == 200, response.text
    (prediction,) = response.json()["predictions"]
    return prediction


async def error(http: httpx.AsyncClient, headers: dict | None = None, **query: Any) -> str:
    response = await http.post(
        "/v1/segment", params={"model": "scored", **query}, content=SMALL, headers=headers
    )
    assert response.status_code == 400
    return response.json()["error"]


def png(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def labels_of(prediction: dict) -> np.ndarray:
    return np.asarray(png(base64.b64decode(prediction["mask"]["data"])))


async def test_every_form_is_the_same_mask(http: httpx.AsyncClient) -> None:
    indexed, grey, rle, polygons, none = [
        await segment(http, LARGE, mask=mask, tolerance=0)
        for mask in ("png", "grey", "rle", "polygons", "none")
    ]
    labels = labels_of(indexed)
    assert labels.shape == (640, 960)
    image = png(base64.b64decode(grey["mask"]["data"]))
    assert image.mode == "L"
    assert np.array_equal(np.asarray(image), labels)
    for run, ring in zip(rle["mask"]["classes"], polygons["mask"]["classes"], strict=True):
        expected = coco.encode(np.asfortranarray(labels == run["index"]))
        assert run["counts"] == expected["counts"].decode()
        flat = [[value for point in rings[0] for value in point] for rings in ring["polygons"]]
        drawn = coco.merge(coco.frPyObjects(flat, 640, 960))
        assert (ring["label"], drawn) == (run["label"], expected)
    assert none["classes"] == indexed["classes"] == polygons["classes"]
    assert "mask" not in none


async def test_smooth_edges_are_the_default_and_move_the_steps_of_a_large_photo(
    http: httpx.AsyncClient,
) -> None:
    smooth, nearest, default = [
        labels_of(await segment(http, LARGE, **query))
        for query in ({"edges": "smooth"}, {"edges": "nearest"}, {})
    ]
    assert np.array_equal(smooth, default)
    assert 0 < (smooth != nearest).mean() < 0.02


async def test_a_photo_of_the_models_size_has_the_models_labels(http: httpx.AsyncClient) -> None:
    smooth = await segment(http, SMALL, edges="smooth")
    nearest = await segment(http, SMALL, edges="nearest")
    assert smooth == nearest


async def test_a_model_without_scores_has_nearest_edges(http: httpx.AsyncClient) -> None:
    prediction = await segment(http, LARGE, model="pixels")
    assert prediction == await segment(http, LARGE, model="pixels", edges="nearest")
    assert "scores, which edges=smooth" in await error(http, model="pixels", edges="smooth")
    assert "scores, which confidence=mean" in await error(http, model="pixels", confidence="mean")


async def test_polygons_of_nearest_edges_are_those_of_the_models_labels(
    http: httpx.AsyncClient,
) -> None:
    prediction = await segment(http, LARGE, model="pixels", mask="polygons", tolerance=0)
    rings = [ring for each in prediction["mask"]["classes"] for ring in each["polygons"][0]]
    assert {value % 10 for ring in rings for point in ring for value in point} == {0}
    assert sum(each["pixels"] for each in prediction["classes"]) == 960 * 640


async def test_normalized_polygons_are_those_of_pixels_divided_by_the_size(
    http: httpx.AsyncClient,
) -> None:
    pixels, normalized = [
        await segment(http, LARGE, mask="polygons", coordinates=coordinates)
        for coordinates in ("pixels", "normalized")
    ]
    for one, other in zip(pixels["mask"]["classes"], normalized["mask"]["classes"], strict=True):
        for rings, others in zip(one["polygons"], other["polygons"], strict=True):
            for ring, same in zip(rings, others, strict=True):
                np.testing.assert_allclose(np.divide(ring, (960, 640)), same, atol=1e-6)


async def test_confidence_is_a_map_and_a_mean_of_each_class(http: httpx.AsyncClient) -> None:
    photo = encode(solid((255, 0, 0), (128, 64)))
    expected = 1 / (1 + 2 * np.exp(-255 * 0.05))
    mean = await segment(http, photo, confidence="mean")
    (red,) = mean["classes"]
    assert red["confidence"] == pytest.approx(expected, abs=1 / 255)
    assert "confidence" not in mean
    pixels = await segment(http, photo, confidence="png", mask="none")
    image = png(base64.b64decode(pixels["confidence"]["data"]))
    assert (image.mode, image.size, image.getpixel((5, 5))) == ("L", (128, 64), 255)
    assert pixels["classes"] == mean["classes"]


@pytest.mark.parametrize("mask", ["rle", "polygons"])
async def test_only_the_wanted_classes_are_listed(http: httpx.AsyncClient, mask: str) -> None:
    prediction = await segment(http, SMALL, model="pixels", mask=mask, classes="green, blue")
    assert [each["label"] for each in prediction["classes"]] == ["green", "blue"]
    assert [each["label"] for each in prediction["mask"]["classes"]] == ["green", "blue"]
    assert prediction["classes"][0]["fraction"] == 0.25


@pytest.mark.parametrize("mask", ["png", "grey"])
async def test_classes_that_are_not_wanted_are_255_in_a_png(
    http: httpx.AsyncClient, mask: str
) -> None:
    labels = labels_of(await segment(http, SMALL, mask=mask, classes="green"))
    assert (labels[5, 5], labels[5, 90], labels[60, 5]) == (255, 1, 255)


async def test_an_overlay_of_some_classes_leaves_the_rest_of_the_photo(
    http: httpx.AsyncClient,
) -> None:
    query = {"model": "scored", "overlay": "true", "classes": "green"}
    response = await http.post("/v1/segment", params=query, content=SMALL)
    image = png(response.content)
    assert image.getpixel((5, 5)) == (255, 0, 0)
    assert image.getpixel((90, 5)) == (0, 255, 0)


@pytest.mark.parametrize(
    ("query", "mode"),
    [({"mask": "grey"}, "L"), ({"mask": "none", "confidence": "png"}, "L"), ({}, "P")],
)
async def test_accept_png_answers_with_the_picture_itself(
    http: httpx.AsyncClient, query: dict, mode: str
) -> None:
    parameters = {"model": "scored", **query}
    response = await http.post("/v1/segment", params=parameters, content=SMALL, headers=PNG)
    image = png(response.content)
    assert (image.mode, image.size) == (mode, (96, 64))


@pytest.mark.parametrize(
    "query", [{"mask": "rle"}, {"mask": "polygons"}, {"mask": "none"}, {"confidence": "png"}]
)
async def test_an_image_cannot_show_other_forms(http: httpx.AsyncClient, query: dict) -> None:
    assert "An image cannot show" in await error(http, PNG, **query)


@pytest.mark.parametrize(
    ("query", "choices"),
    [
        ({"mask": "gif"}, "'png', 'grey', 'rle', 'polygons' or 'none'"),
        ({"edges": "rough"}, "'smooth' or 'nearest'"),
        ({"confidence": "true"}, "'none', 'mean' or 'png'"),
        ({"coordinates": "metres"}, "'pixels' or 'normalized'"),
        ({"classes": "green,violet"}, "no class 'violet'; its classes are red, green, blue"),
    ],
)
async def test_an_unknown_value_is_refused_with_the_choices(
    http: httpx.AsyncClient, query: dict, choices: str
) -> None:
    assert choices in await error(http, **query)


async def test_a_mask_that_is_too_fragmented_for_polygons_is_a_413(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.images.polygons.MAX_CORNERS", 8)
    query = {"model": "scored", "mask": "polygons"}
    response = await http.post("/v1/segment", params=query, content=SMALL)
    assert response.status_code == 413
    assert "mask=rle" in response.json()["error"]
