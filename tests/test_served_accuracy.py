"""What `vt-export evaluate` counts is what the service answers: photo by photo, over HTTP."""

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from model_export.comparison.predictors import graph_predictor
from model_export.entry.version import Version, open_version
from model_export.preprocessing import open_image
from service.app import create_app
from service.settings import Settings

WEIGHTS = Path(__file__).parent.parent / "weights"
CLASSIFIER, SEGMENTER = "vt_resnet18_imagenette", "vt_fpn_camvid"


@pytest.fixture(params=["fp32", "int8"])
def precision(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
async def service(precision: str) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application on the shipped weights."""
    app = create_app(Settings(model_repository=WEIGHTS, precision=precision))
    parts = app.state.engine
    await parts.repository.load_all()
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", timeout=60
    ) as http:
        yield http
    await asyncio.to_thread(parts.image_threads.close)
    await parts.repository.close()


def evaluated(version: Version, precision: str, photo: Path) -> dict[str, np.ndarray]:
    """The outputs that `evaluate` scores."""
    image = version.preprocessing(open_image(photo))
    outputs = graph_predictor(version.graph(precision))(image[None])
    return {name: values[0] for name, values in outputs.items()}


async def test_each_photo_gets_the_class_that_evaluate_counts(
    service: httpx.AsyncClient, precision: str
) -> None:
    version = open_version(WEIGHTS, CLASSIFIER)
    assert version.examples
    for photo in version.examples:
        logits = evaluated(version, precision, photo)["logits"]
        answer = await service.post("/v1/classify?top_k=10", content=photo.read_bytes())
        classes = answer.json()["predictions"][0]["classes"]
        assert classes[0]["index"] == logits.argmax(), photo
        served = [each["score"] for each in sorted(classes, key=lambda each: each["index"])]
        scores = np.exp(logits - logits.max())
        np.testing.assert_allclose(served, scores / scores.sum(), atol=2e-4)


async def test_each_frame_gets_the_mask_that_evaluate_counts(
    service: httpx.AsyncClient, precision: str
) -> None:
    version = open_version(WEIGHTS, SEGMENTER)
    assert version.examples
    for photo in version.examples:
        labels = evaluated(version, precision, photo)["labels"]
        answer = await service.post(
            "/v1/segment", content=photo.read_bytes(), headers={"Accept": "image/png"}
        )
        mask = np.asarray(Image.open(io.BytesIO(answer.content)))
        height, width = mask.shape
        expected = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
        assert (mask == np.asarray(expected)).mean() > 0.9999, photo


async def test_the_metadata_names_the_precision_and_its_accuracy(
    service: httpx.AsyncClient, precision: str
) -> None:
    models = (await service.get("/v1/models")).json()["models"]
    assert sorted(model["name"] for model in models) == [SEGMENTER, CLASSIFIER]
    for model in models:
        recorded = open_version(WEIGHTS, model["name"]).certificate()["precisions"][precision]
        accuracy = recorded["execution_providers"]["CPUExecutionProvider"]["accuracy"]
        metric = "top1" if model["task"] == "classification" else "miou"
        assert model["precision"] == precision
        assert model["accuracy"][metric] == accuracy[metric]
