import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest

from service.contract import read_contract
from service.errors import InferenceFailed, PayloadTooLarge, QueueFull
from service.events import ModelBuild, ModelIdentity
from service.model_instance import ModelInstance
from service.protocol import Task
from tests.service.repository_fixture import write_segmenter


class FakeSession:
    """Answers each image with its first value; remembers batches; can be held."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.begun = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.lost = 0
        self.error: Exception | None = None

    def run(self, inputs: dict, outputs: list) -> list:
        images = inputs["images"]
        self.batches.append(images.shape)
        self.begun.set()
        assert self.open.wait(10)
        if self.error:
            raise self.error
        return [images[: len(images) - self.lost, 0, 0, 0] for _ in outputs]


class FakeEvents:
    def __init__(self) -> None:
        self.depths: list[int] = []

    def queue_changed(self, model: ModelIdentity, images: int) -> None:
        self.depths.append(images)


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def events() -> FakeEvents:
    return FakeEvents()


@pytest.fixture
def instance(tmp_path: Path, session: FakeSession, events: FakeEvents) -> ModelInstance:
    instance = ModelInstance(
        identity=ModelIdentity("pixels", "1", Task.SEGMENTATION),
        contract=read_contract(write_segmenter(tmp_path)),  # batches of 4 at most
        build=ModelBuild("fp32", "cpu", "cpu", "0" * 64),
        session=session,
        max_queue_size=8,
        events=events,
    )
    yield instance
    session.open.set()
    instance.close()


def image(value: int, side: int = 2) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


async def infer(instance: ModelInstance, images: list) -> list[int]:
    inference = await instance.infer(images, ["labels"])
    assert inference.compute_seconds >= 0
    return [int(outputs["labels"]) for outputs in inference.outputs]


async def test_images_are_run_in_batches_and_answered_in_order(
    instance: ModelInstance, session: FakeSession
) -> None:
    assert await infer(instance, [image(n) for n in range(10)]) == list(range(10))
    assert [batch[0] for batch in session.batches] == [4, 4, 2]


async def test_shapes_are_never_mixed_in_a_batch_and_the_order_is_kept(
    instance: ModelInstance, session: FakeSession
) -> None:
    sides = [2, 3, 2, 4, 3, 2, 2, 2]
    images = [image(n, side) for n, side in enumerate(sides)]
    assert await infer(instance, images) == list(range(8))
    assert sorted(session.batches) == sorted(
        [(4, 2, 2, 3), (1, 2, 2, 3), (2, 3, 3, 3), (1, 4, 4, 3)]
    )


async def test_a_lost_result_is_an_error_and_nobody_hangs(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.lost = 1
    with pytest.raises(InferenceFailed, match="another number of results"):
        await infer(instance, [image(1), image(2)])


async def test_a_failed_run_leaves_the_next_one_alone(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.error = InferenceFailed("no")
    with pytest.raises(InferenceFailed):
        await infer(instance, [image(1)])
    session.error = None
    assert await infer(instance, [image(2)]) == [2]


async def test_what_is_cancelled_before_it_starts_never_runs(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.open.clear()
    running = asyncio.create_task(infer(instance, [image(1)]))
    assert await asyncio.to_thread(session.begun.wait, 10)
    waiting = asyncio.create_task(infer(instance, [image(2)] * 8))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    session.open.set()
    assert await running == [1]
    assert await infer(instance, [image(3)]) == [3]
    assert len(session.batches) == 2


def test_room_is_held_and_given_back(instance: ModelInstance, events: FakeEvents) -> None:
    with instance.reserve(5), instance.reserve(3):
        with pytest.raises(QueueFull) as caught, instance.reserve(1):
            pass
        assert caught.value.retry_after_seconds == 1
    with instance.reserve(8):
        pass
    assert events.depths == [5, 8, 5, 0, 8, 0]


def test_what_can_never_fit_is_not_told_to_come_back(instance: ModelInstance) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 8 images"), instance.reserve(9):
        pass


async def test_the_promise_to_return_is_measured(
    instance: ModelInstance, session: FakeSession
) -> None:
    instance._image_seconds.add(2.0)
    with instance.reserve(8), pytest.raises(QueueFull) as caught, instance.reserve(1):
        pass
    assert caught.value.retry_after_seconds == 16


def test_warming_up_runs_the_size_of_a_common_photo(
    instance: ModelInstance, session: FakeSession
) -> None:
    instance.warm_up()
    assert session.batches == [(1, 64, 96, 3)]
