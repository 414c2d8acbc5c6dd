"""`/v1/explain` and `/v1/embed`: their formats, options and errors."""

import io
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.engine.engine import Engine
from tests.service.clients import error_of
from tests.service.conftest import Running, Start
from tests.service.photos import GREEN, RED, encode, solid
from tests.service.token_models import write_token_models

PHOTO = encode(solid(RED, (60, 40)))
TWO = [("files", ("a.png", PHOTO)), ("files", ("b.png", encode(solid(GREEN))))]


@pytest.fixture
async def tokens(tmp_path: Path, start: Start) -> AsyncIterator[Running]:
    async with start(model_repository=write_token_models(tmp_path / "tokens")) as running:
        yield running


async def test_an_explanation_is_that_of_the_engine(tokens: Running) -> None:
    response = await tokens.http.post("/v1/explain?model=halves&class=green&top_k=1", files=TWO)
    assert response.status_code == 200
    engine: Engine = tokens.engine
    photos = [photo for _, (_, photo) in TWO]
    expected = await engine.explain(photos, model="halves", class_name="green", top_k=1)
    received = response.json()
    assert received["task"] == "classification"
    assert [each["classes"] for each in received["predictions"]] == [
        each["classes"] for each in expected["predictions"]
    ]
    first, wanted = received["predictions"][0], expected["predictions"][0]
    assert first["modules"][1]["tokens"] == [
        token | {"centre": list(token["centre"])} for token in wanted["modules"][1]["tokens"]
    ]
    assert first["explained"]["label"] == "green"
    assert {"decode", "compute", "encode"} <= set(stages(response.headers["server-timing"]))


def stages(header: str) -> list[str]:
    return [stage.partition(";")[0].strip() for stage in header.split(",")]


def opened(response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    return Image.open(io.BytesIO(response.content))


@pytest.mark.parametrize("model", ["halves", "levels"])
async def test_a_contact_sheet_has_a_row_per_module(tokens: Running, model: str) -> None:
    path = f"/v1/explain?format=png&model={model}"
    assert opened(await tokens.http.post(path, content=PHOTO)).width == 2 * (128 + 4) + 4


async def test_an_overlay_has_the_photos_size_and_shows_the_chosen_token(tokens: Running) -> None:
    path = "/v1/explain?format=overlay&model=levels"
    chosen = opened(await tokens.http.post(f"{path}&module=stride_4&token=1", content=PHOTO))
    default = opened(await tokens.http.post(path, content=PHOTO))
    assert chosen.size == default.size == (60, 40)


async def test_an_overlay_has_the_format_of_the_photo_or_one_that_is_accepted(
    tokens: Running,
) -> None:
    path, jpeg = "/v1/explain?format=overlay&model=levels", encode(solid(RED, (60, 40)), "JPEG")
    for accept, wanted in (("*/*", "image/jpeg"), ("image/webp", "image/webp")):
        response = await tokens.http.post(path, content=jpeg, headers={"Accept": accept})
        assert response.headers["content-type"] == wanted


async def test_an_overlay_shows_the_token_that_contributes_most(tokens: Running) -> None:
    """Red is on the left, so token 0 has it; green is on the right, and the most likely class."""
    photo = solid(GREEN, (64, 64))
    photo.paste(RED, (0, 0, 32, 64))
    body, path = encode(photo), "/v1/explain?format=overlay&model=halves"
    pictures = {
        options: (await tokens.http.post(f"{path}{options}", content=body)).content
        for options in ("", "&token=0", "&token=1", "&class=red")
    }
    assert pictures["&token=0"] != pictures["&token=1"]
    assert pictures[""] == pictures["&token=1"]
    assert pictures["&class=red"] == pictures["&token=0"]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("format=gif", "The parameter format is not valid: Input should be 'json', 'png' or"),
        ("format=overlay&module=module_9", "the modules are module_1, module_2."),
        ("format=overlay&token=2", "no token 2 in module_2; its tokens are 0 to 1."),
        ("format=overlay&token=-1", "The parameter token is not valid"),
        ("token=0", "The parameters module and token choose the map of format=overlay; add it."),
        ("format=png&module=module_1", "choose the map of format=overlay; add it."),
        ("class=lion", "There is no class lion; the classes are red, green, blue."),
        ("top_k=0", "The parameter top_k is not valid"),
        ("tokens=true", "There is no parameter tokens; "),
    ],
)
async def test_an_unknown_choice_is_a_400_that_lists_the_choices(
    tokens: Running, query: str, sentence: str
) -> None:
    response = await tokens.http.post(f"/v1/explain?model=halves&{query}", content=PHOTO)
    assert response.status_code == 400
    assert sentence in error_of(response)


@pytest.mark.parametrize("picture", ["png", "overlay"])
async def test_a_picture_shows_one_photo(tokens: Running, picture: str) -> None:
    path = f"/v1/explain?model=halves&format={picture}"
    response = await tokens.http.post(path, files=TWO)
    assert response.status_code == 400
    assert "An image response shows one photo" in error_of(response)


async def test_a_model_without_tokens_is_a_400_that_says_so(service: Running) -> None:
    for path, words in (("explain", "no attention maps"), ("embed", "no visual tokens")):
        response = await service.http.post(f"/v1/{path}?model=pixels", content=PHOTO)
        assert response.status_code == 400
        assert f"The model pixels has {words}" in error_of(response)


async def test_embeddings_are_json_or_a_numpy_file(tokens: Running) -> None:
    path = "/v1/embed?model=levels"
    response = await tokens.http.post(path, files=TWO)
    assert response.json() == {
        "model": "levels",
        "version": "1",
        "dimensions": 3,
        "normalized": False,
        "embeddings": [[255, 0, 0], [0, 255, 0]],
    }
    headers = {"Accept": "application/octet-stream"}
    response = await tokens.http.post(f"{path}&tokens=true", files=TWO, headers=headers)
    assert response.headers["content-type"] == "application/octet-stream"
    array = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert (array.dtype, array.shape) == (np.float32, (2, 4, 3))
    response = await tokens.http.post(f"{path}&tokens=true&normalize=true", content=PHOTO)
    assert response.json()["embeddings"] == [[[1, 0, 0]] * 4]
    assert response.json()["normalized"] is True


async def test_json_is_preferred_if_the_client_takes_anything(tokens: Running) -> None:
    for accept in ("*/*", "application/json, application/octet-stream"):
        headers = {"Accept": accept}
        response = await tokens.http.post("/v1/embed?model=halves", content=PHOTO, headers=headers)
        assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/v1/explain?model=halves", "/v1/embed?model=halves"])
async def test_the_limits_statuses_and_metrics_are_those_of_v1(tokens: Running, path: str) -> None:
    http = tokens.http
    assert (await http.post(path, content=b"")).status_code == 400
    assert (await http.post(path, content=b"no photo")).status_code == 415
    assert (await http.post(path.replace("halves", "lions"), content=PHOTO)).status_code == 404
    assert (await http.post(f"{path}&version=9", content=PHOTO)).status_code == 404
    gate = tokens.gate("halves")
    late = {"X-Request-Timeout-Ms": "50"}
    assert (await http.post(path, content=PHOTO, headers=late)).status_code == 504
    gate.open()
    assert (await http.post(path, content=PHOTO)).status_code == 200
    registry = tokens.engine.metrics.registry
    labels = {"model": "halves", "version": "1", "task": "classification"}
    counted = {
        outcome: registry.get_sample_value(
            "vt_inference_requests_total", labels | {"outcome": outcome}
        )
        for outcome in ("ok", "bad_input", "timeout")
    }
    assert counted == {"ok": 1, "bad_input": 2, "timeout": 1}
