"""A version that answers no request, but is compared with the one that does."""

import asyncio
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from service.engine import shadow as shadow_module
from service.engine.inference import Inferred
from service.images.photo import PreparedImage
from service.schema.shadow_rule import ShadowRule, parse_shadow_rule
from service.schema.tasks import TASKS
from service.schema.version_policy import parse_version_policy
from service.schema.vocabulary import Task
from tests.service.conftest import Running, Start, until
from tests.service.photos import BLUE, GREEN, RED, encode, solid
from tests.service.repository_fixture import (
    classification_config,
    classification_graph,
    golden_arrays,
    list_versions,
    write_entry,
    write_versions,
)

PHOTOS = [encode(solid(color)) for color in (RED, GREEN, BLUE)]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_versions(tmp_path, "1", "2")
    return tmp_path


def write_contrary(repository: Path) -> None:
    """Make version 2 see the opposite of what version 1 sees."""
    config = classification_config("colour")
    golden = golden_arrays(config, -0.05)
    folder = write_entry(repository, config, classification_graph(-0.05), "2", golden)
    list_versions(folder, config, "1", "2")


async def classify(service: Running, photo: bytes = PHOTOS[0], **query: str) -> dict:
    response = await service.http.post("/v1/classify", content=photo, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def shadowed(service: Running, name: str) -> float:
    """A number of the shadow's metrics, all labels together."""
    text = service.engine.metrics.render("")[0].decode()
    return sum(map(float, re.findall(rf"^vt_shadow_{name}.* (.+)$", text, re.MULTILINE)))


def compared(service: Running) -> float:
    return shadowed(service, "agreement_ratio_count")


async def test_a_share_of_the_requests_is_compared_and_none_is_answered_by_the_shadow(
    start: Start,
) -> None:
    async with start(shadow="colour:2@0.5") as service:
        for index in range(6):
            answer = await classify(service, PHOTOS[index % 3])
            assert answer["version"] == "1"
            await until(lambda count=index: compared(service) == (count + 1) // 2)
        assert shadowed(service, "agreement_ratio_sum") == 3
        assert shadowed(service, "dropped_total") == 0
        assert (await service.http.get("/v2/models/colour/versions/2/ready")).status_code == 200


async def test_a_shadow_that_disagrees_has_an_agreement_of_zero(
    start: Start, repository: Path
) -> None:
    write_contrary(repository)
    async with start(shadow="colour:2@1") as service:
        for count, photo in enumerate(PHOTOS, 1):
            await classify(service, photo)
            await until(lambda count=count: compared(service) == count)
        assert shadowed(service, "agreement_ratio_sum") == 0


async def test_infer_requests_are_compared_by_the_output_of_the_task(start: Start) -> None:
    async with start(shadow="colour:2@1") as service:
        pixels = np.zeros((2, 8, 8, 3), np.uint8).tolist()
        images = {"name": "images", "datatype": "UINT8", "shape": [2, 8, 8, 3], "data": pixels}
        for outputs in ([], [{"name": "tokens"}]):
            body = {"inputs": [images], "outputs": outputs}
            response = await service.http.post("/v2/models/colour/infer", json=body)
            assert response.status_code == 200
        await until(lambda: compared(service) == 2)
        await classify(service)
        await until(lambda: compared(service) == 3)


async def test_requests_with_nothing_to_compare_do_not_count_into_the_share(start: Start) -> None:
    async with start(shadow="colour:2@0.5") as service:
        pixels = np.zeros((1, 8, 8, 3), np.uint8).tolist()
        images = {"name": "images", "datatype": "UINT8", "shape": [1, 8, 8, 3], "data": pixels}
        body = {"inputs": [images], "outputs": [{"name": "tokens"}]}
        for count in (1, 2, 3):
            await classify(service)
            await service.http.post("/v2/models/colour/infer", json=body)
            await until(lambda count=count: compared(service) == count // 2)


async def test_a_request_for_the_shadow_itself_is_answered_and_not_compared(start: Start) -> None:
    async with start(shadow="colour:2@1") as service:
        assert (await classify(service, version="2"))["version"] == "2"
        await classify(service)
        await until(lambda: compared(service) == 1)


async def test_the_answer_does_not_wait_for_the_shadow(start: Start) -> None:
    async with start(cores=2, shadow="colour:2@1") as service:
        gate = service.gate("colour", "2")
        await classify(service)
        await gate.begun()
        await classify(service)
        assert compared(service) == 0
        gate.open()
        await until(lambda: compared(service) == 2)


async def test_nothing_is_compared_while_requests_wait(start: Start) -> None:
    async with start(shadow="colour:2@1") as service:
        gate = service.gate("colour", "1")
        instance = service.engine.repository.get("colour", "1").ready_instance()
        waiting = [asyncio.create_task(classify(service)) for _ in range(2)]
        await until(lambda: instance.pending == 2)
        service.engine.shadow.answered(instance, answered(PHOTOS[0]))
        assert service.engine.repository.get("colour", "2").ready_instance().pending == 0
        assert compared(service) == 0
        gate.open()
        await asyncio.gather(*waiting)
        await until(lambda: compared(service) == 3)


def answered(photo: bytes) -> Inferred:
    prepared = PreparedImage(np.zeros((8, 8, 3), np.uint8), 8, 8)
    return Inferred([photo], [prepared], [{"logits": np.array([1.0, 0, 0])}])


async def test_a_comparison_beyond_the_memory_limit_is_dropped_and_counted(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start(shadow="colour:2@1") as service:
        monkeypatch.setattr(shadow_module, "MAX_WAITING_BYTES", len(PHOTOS[0]))
        await classify(service)
        assert shadowed(service, 'dropped_total{model="colour",reason="busy"') == 1


async def test_a_failing_shadow_is_counted_and_does_not_affect_responses(start: Start) -> None:
    async with start(shadow="colour:2@1") as service:
        await service.engine.repository.load("colour", parse_version_policy("specific:1"))
        assert (await classify(service))["version"] == "1"
        await until(lambda: shadowed(service, 'dropped_total{model="colour",reason="failed"') == 1)


async def test_a_shadow_that_cannot_be_loaded_does_not_affect_readiness_or_responses(
    start: Start, repository: Path
) -> None:
    (repository / "colour" / "2" / "model.onnx").write_bytes(b"tampered")
    async with start(shadow="colour:2@1") as service:
        assert (await service.http.get("/v2/health/ready")).status_code == 200
        assert (await classify(service))["version"] == "1"


def test_the_agreement_of_masks_is_the_share_of_equal_pixels() -> None:
    one, other = np.zeros((2, 2), np.uint8), np.array([[0, 0], [0, 1]], np.uint8)
    assert TASKS[Task.SEGMENTATION].agreement([(one, other)]) == 0.75
    assert TASKS[Task.SEGMENTATION].agreement([(one, other[:1])]) == 0.0


def test_a_rule_is_read() -> None:
    assert parse_shadow_rule("vt:2@0.1") == ShadowRule("vt", "2", Decimal("0.1"))
    assert parse_shadow_rule("vt:12@1") == ShadowRule("vt", "12", Decimal(1))


@pytest.mark.parametrize(("share", "due"), [("0.1", 10), ("0.7", 70), ("0.015", 1), ("1", 100)])
def test_the_share_sets_how_many_of_a_hundred_requests_are_due(share: str, due: int) -> None:
    rule = parse_shadow_rule(f"vt:2@{share}")
    assert sum(map(rule.is_due, range(1, 101))) == due


def test_requests_that_are_due_are_spread() -> None:
    rule = parse_shadow_rule("vt:2@0.25")
    assert [number for number in range(1, 13) if rule.is_due(number)] == [4, 8, 12]


@pytest.mark.parametrize(
    "text", ["", "vt", "vt:2", "vt@0.1", "vt:0@0.1", "vt:2@0", "vt:2@1.1", "vt:2@.", "vt:x@1"]
)
def test_an_invalid_rule_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="MODEL:VERSION@SHARE"):
        parse_shadow_rule(text)
