"""One image every few seconds is sampled; the others and the response do not notice."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.service.conftest import Running, Start, until
from tests.service.photos import RED, encode, solid
from tests.service.token_models import write_token_models

PHOTO = encode(solid(RED))
FAR = {"token_sample_seconds": 1000.0}


@pytest.fixture
async def tokens(tmp_path: Path, start: Start) -> AsyncIterator[Running]:
    async with start(model_repository=write_token_models(tmp_path / "tokens"), **FAR) as running:
        yield running


def due(service: Running, model: str) -> None:
    service.engine.repository.get(model).ready_instance().tokens.due_at = 0.0


def observed(service: Running, name: str, **labels: str) -> float:
    labels = {"version": "1", **labels}
    return service.engine.metrics.registry.get_sample_value(name, labels) or 0.0


async def predict(service: Running, path: str) -> None:
    response = await service.http.post(path, content=PHOTO)
    assert response.status_code == 200


async def test_a_sampled_image_is_described_and_the_next_one_is_not(tokens: Running) -> None:
    names: list[tuple[str, ...]] = []
    (session,) = tokens.sessions("halves")

    def run(images: list, outputs: list) -> list:
        names.append(tuple(outputs))
        return session.run_graph(images, outputs)

    tokens.replace_runs("halves", run)
    await predict(tokens, "/v1/classify")
    due(tokens, "halves")
    await predict(tokens, "/v1/classify")
    await predict(tokens, "/v1/classify")
    every = ("logits", "tokens", "token_attention")
    assert names == [("logits",), every, ("logits",)]

    def count() -> float:
        return observed(tokens, "vt_token_similarity_count", model="halves")

    await until(lambda: count() == 1)
    assert observed(tokens, "vt_token_similarity_sum", model="halves") == pytest.approx(1)
    for module in ("module_1", "module_2"):
        entropy = observed(tokens, "vt_attention_entropy_ratio_sum", model="halves", module=module)
        assert entropy == pytest.approx(1)


async def test_the_levels_of_a_segmenter_are_sampled(tokens: Running) -> None:
    due(tokens, "levels")
    await predict(tokens, "/v1/segment")
    name, labels = "vt_attention_entropy_ratio_count", {"model": "levels", "module": "stride_8"}
    await until(lambda: observed(tokens, name, **labels) == 1)


async def test_a_request_gets_only_the_outputs_that_it_asked_for(tokens: Running) -> None:
    due(tokens, "halves")
    body = {"inputs": [{"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3]}]}
    body["inputs"][0]["data"] = [0] * 192
    response = await tokens.http.post("/v2/models/halves/infer", json=body)
    assert [each["name"] for each in response.json()["outputs"]] == ["logits"]
    due(tokens, "halves")
    await predict(tokens, "/v1/embed?model=halves")


async def test_a_sample_that_cannot_be_described_does_not_affect_the_request(
    tokens: Running,
) -> None:
    (session,) = tokens.sessions("halves")

    def run(images: list, outputs: list) -> list:
        results = session.run_graph(images, outputs)
        return [
            each * math.nan if name != "logits" else each
            for name, each in zip(outputs, results, strict=True)
        ]

    tokens.replace_runs("halves", run)
    due(tokens, "halves")
    await predict(tokens, "/v1/classify")
    await asyncio.to_thread(lambda: None)
    assert observed(tokens, "vt_token_similarity_count", model="halves") == 0


async def test_nothing_is_sampled_with_an_interval_of_0(tmp_path: Path, start: Start) -> None:
    repository = write_token_models(tmp_path / "tokens")
    async with start(model_repository=repository, token_sample_seconds=0) as service:
        sampler = service.engine.repository.get("halves").ready_instance().tokens
        assert sampler.due_at == math.inf


async def test_a_model_without_tokens_is_never_sampled(start: Start) -> None:
    async with start(token_sample_seconds=1) as service:
        sampler = service.engine.repository.get("pixels").ready_instance().tokens
        assert sampler.due_at == math.inf
