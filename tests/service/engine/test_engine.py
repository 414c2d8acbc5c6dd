"""The engine without HTTP: a few lines of Python, and the errors of the one tree."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest

from service.engine.engine import Engine
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotFound,
    PayloadTooLarge,
    ServerStopping,
    UnsupportedMediaType,
)
from service.settings import Settings
from tests.service.photos import GREEN, RED, encode, quarters, solid
from tests.service.repository_fixture import with_temperature, write_classifier

PHOTOS = [encode(solid(GREEN), "JPEG"), encode(solid(RED))]

WITHOUT_HTTP = """
import asyncio, sys
from pathlib import Path

for name in ("fastapi", "starlette", "uvicorn"):
    sys.modules[name] = None  # an import of it fails

from service.engine.engine import Engine
from service.settings import Settings
from service.telemetry.log import configure_log

async def main() -> None:
    configure_log("auto", "warning")
    async with Engine.from_settings(Settings(model_repository=Path(sys.argv[1]))) as engine:
        result = await engine.classify([Path(sys.argv[2]).read_bytes()], top_k=1)
    print(result["predictions"][0]["classes"][0]["label"])

asyncio.run(main())
"""


@pytest.fixture
async def engine(repository: Path) -> AsyncIterator[Engine]:
    settings = Settings(model_repository=repository, max_images_per_request=3)
    async with Engine.from_settings(settings) as running:
        yield running


def test_the_engine_classifies_without_any_http_library(repository: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(PHOTOS[0])
    command = [sys.executable, "-W", "error", "-c", WITHOUT_HTTP, str(repository), str(photo)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout) == (0, "green\n"), ended.stderr


async def test_several_photos_are_classified_in_order(engine: Engine) -> None:
    result = await engine.classify(PHOTOS, top_k=2)
    assert (result["model"], result["version"]) == ("colour", "1")
    labels = [row["classes"][0]["label"] for row in result["predictions"]]
    assert labels == ["green", "red"]
    assert [len(row["classes"]) for row in result["predictions"]] == [2, 2]


async def test_the_scores_follow_the_temperature_of_the_version(tmp_path: Path) -> None:
    path = write_classifier(tmp_path) / "config.json"
    scores = []
    for temperature in (1.0, 3.0):
        path.write_text(json.dumps(with_temperature(json.loads(path.read_text()), temperature)))
        async with Engine.from_settings(Settings(model_repository=tmp_path)) as engine:
            result = await engine.classify(PHOTOS[:1], top_k=3)
        classes = sorted(result["predictions"][0]["classes"], key=lambda each: each["index"])
        scores.append(np.array([each["score"] for each in classes]))
    expected = scores[0] ** (1 / 3)
    assert scores[1] == pytest.approx(expected / expected.sum(), abs=1e-3)
    assert scores[0].max() - scores[1].max() > 0.01


async def test_a_photo_is_segmented(engine: Engine) -> None:
    result = await engine.segment([encode(quarters(96, 64))], mask="rle")
    (prediction,) = result["predictions"]
    assert [area["pixels"] for area in prediction["classes"]] == [3072, 1536, 1536]
    assert prediction["mask"]["format"] == "rle"
    result = await engine.segment([encode(quarters(96, 64))], model="pixels", mask="none")
    assert "mask" not in result["predictions"][0]


@pytest.mark.parametrize(
    ("images", "options", "error"),
    [
        ([], {}, InvalidRequest),
        ([b"no image"], {}, UnsupportedMediaType),
        ([PHOTOS[0][:300]], {}, InvalidRequest),
        (PHOTOS * 2, {}, PayloadTooLarge),
        (PHOTOS, {"model": "unknown"}, ModelNotFound),
        (PHOTOS, {"model": "pixels"}, InvalidRequest),
        (PHOTOS, {"version": "9"}, ModelNotFound),
    ],
)
async def test_a_refused_call_raises_an_error_of_the_tree(
    engine: Engine, images: list[bytes], options: dict, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await engine.classify(images, **options)
    assert engine.admission.is_empty
    assert (await engine.classify(PHOTOS[:1]))["predictions"]


async def test_a_deadline_that_has_passed_is_exceeded(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        await engine.classify(PHOTOS, timeout_seconds=1e-9)
    assert engine.admission.is_empty


async def test_a_call_is_counted_like_a_request(engine: Engine) -> None:
    await engine.classify(PHOTOS)
    with pytest.raises(UnsupportedMediaType):
        await engine.classify([b"no image"])
    labels = {"model": "colour", "version": "1"}
    value = engine.metrics.registry.get_sample_value
    assert value("vt_inference_images_total", labels) == 2
    for outcome in ("ok", "bad_input"):
        counted = {**labels, "task": "classification", "outcome": outcome}
        assert value("vt_inference_requests_total", counted) == 1


async def test_after_stop_calls_are_rejected(engine: Engine) -> None:
    engine.admission.stop()
    with pytest.raises(ServerStopping):
        await engine.classify(PHOTOS)


async def test_a_closed_engine_has_no_calls_in_flight_and_accepts_none(repository: Path) -> None:
    async with Engine.from_settings(Settings(model_repository=repository)) as engine:
        assert len(engine.repository.instances()) == 2
        instance = engine.repository.get("colour").ready_instance()
    with pytest.raises(ServerStopping):
        await engine.call(engine.repository.get("colour")).__aenter__()
    assert instance.pending == 0
