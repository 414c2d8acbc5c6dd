import asyncio
import threading
import weakref
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest

from service.batching import recovery
from service.batching.instance import ModelInstance
from service.batching.interface import Inference, combine
from service.batching.plan import ExecutionPlan
from service.batching.queue import Answer, Run, Urgency
from service.errors import (
    DeadlineUnreachable,
    InferenceFailed,
    InvalidEntry,
    OutOfMemory,
    PayloadTooLarge,
    QueueFull,
)
from service.images.photo import PreparedImage
from service.runtime.device import Device
from service.runtime.execution_providers import Placement
from service.runtime.graph_sessions import GraphSessions
from service.schema.files import read_certificate, read_contract
from service.schema.model_status import Measurement, Width
from service.schema.vocabulary import Task
from service.telemetry.events import ModelBuild, ModelIdentity
from service.telemetry.metrics import PrometheusMetrics
from tests.service.repository_fixture import write_segmenter

FOREVER = 1e12


class FakeSession:
    """Answers each image with its first value; remembers batches; can be blocked."""

    placement = Placement("cpu", "cpu")

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []
        self.begun = threading.Event()
        self.open = threading.Event()
        self.open.set()
        self.lost = 0
        self.error: Exception | None = None

    def run(self, images: list, outputs: list) -> list:
        images = np.stack(images)
        self.batches.append(images.shape)
        self.begun.set()
        assert self.open.wait(10)
        if self.error:
            raise self.error
        return [images[: len(images) - self.lost, 0, 0, 0] for _ in outputs]


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


NewInstance = Callable[[GraphSessions], ModelInstance]


@pytest.fixture
async def new_instance(tmp_path: Path, session: FakeSession) -> AsyncIterator[NewInstance]:
    """Make an instance that runs its batches on these sessions."""
    folder = write_segmenter(tmp_path)
    instances: list[ModelInstance] = []

    def make(sessions: GraphSessions) -> ModelInstance:
        instances.append(instance_of(folder, sessions))
        return instances[-1]

    yield make
    session.open.set()
    for each in instances:
        await each.close()


@pytest.fixture
def instance(new_instance: NewInstance, session: FakeSession) -> ModelInstance:
    return new_instance(GraphSessions({1: session}, lambda _: session))


def instance_of(folder: Path, sessions: GraphSessions) -> ModelInstance:
    contract = read_contract(folder)
    metrics, identity = PrometheusMetrics(), ModelIdentity("pixels", "1", Task.SEGMENTATION)
    return ModelInstance(
        identity=identity,
        contract=contract,
        certificate=read_certificate(folder, contract, "1"),
        build=ModelBuild("fp32", "cpu", "cpu", "0" * 64),
        sessions=sessions,
        plan=ExecutionPlan(
            (Width(threads=1, max_batch_size=4),),
            (Measurement(threads=1, batch_size=1, seconds=2.0),),
            pixels=1,
        ),
        device=Device(1),
        max_batch_size=4,
        max_queue_size=8,
        events=metrics.batches,
        telemetry=metrics.inference.of(identity),
    )


def image(value: int, side: int = 2) -> PreparedImage:
    return PreparedImage(np.full((side, side, 3), value, np.uint8), side, side)


async def infer(instance: ModelInstance, images: list) -> list[int]:
    inference = await instance.infer(images, ["labels"], Urgency(FOREVER))
    assert inference.queue_seconds >= 0
    assert inference.compute_seconds >= 0
    return [int(outputs["labels"]) for outputs in inference.outputs]


async def test_images_run_in_batches_and_are_answered_in_order(
    instance: ModelInstance, session: FakeSession
) -> None:
    assert await infer(instance, [image(n) for n in range(10)]) == list(range(10))
    assert [batch[0] for batch in session.batches] == [4, 4, 2]


async def test_shapes_are_never_mixed_in_a_batch_and_answers_keep_their_order(
    instance: ModelInstance, session: FakeSession
) -> None:
    sides = [2, 3, 2, 4, 3, 2, 2, 2]
    images = [image(n, side) for n, side in enumerate(sides)]
    assert await infer(instance, images) == list(range(8))
    assert sorted(session.batches) == sorted(
        [(4, 2, 2, 3), (1, 2, 2, 3), (2, 3, 3, 3), (1, 4, 4, 3)]
    )


async def test_a_missing_result_is_an_error_for_every_image(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.lost = 1
    with pytest.raises(InferenceFailed, match="number of results differs"):
        await infer(instance, [image(1), image(2)])


async def test_a_failed_batch_does_not_affect_the_next_one(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.error = InferenceFailed("no")
    with pytest.raises(InferenceFailed):
        await infer(instance, [image(1)])
    session.error = None
    assert await infer(instance, [image(2)]) == [2]


async def test_images_cancelled_before_they_start_never_run(
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


async def test_room_is_reserved_and_freed(instance: ModelInstance) -> None:
    instance.reserve(5, FOREVER)
    instance.reserve(3, FOREVER)
    assert instance.pending == 8
    with pytest.raises(QueueFull):
        instance.reserve(1, FOREVER)
    assert instance.pending == 8
    instance.free(5)
    instance.free(3)
    assert instance.pending == 0
    instance.reserve(8, FOREVER)


async def test_more_images_than_ever_fit_are_too_large(instance: ModelInstance) -> None:
    with pytest.raises(PayloadTooLarge, match="at most 8 images"):
        instance.check(9, FOREVER)


async def test_retry_after_follows_from_the_measured_rate(
    instance: ModelInstance,
) -> None:
    instance.reserve(8, FOREVER)
    with pytest.raises(QueueFull) as caught:
        instance.check(1, FOREVER)
    assert caught.value.retry_after_seconds == 16  # eight images of two seconds


async def test_images_that_would_miss_their_deadline_are_refused_at_once(
    instance: ModelInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six seconds are predicted; with a margin, and two for the image itself, it needs 8.9."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    monkeypatch.setattr(loop, "time", lambda: now)
    instance.reserve(3, FOREVER)
    assert instance.predicted_wait_seconds == 6
    instance.check(1, now + 60)
    with pytest.raises(DeadlineUnreachable, match=r"is 6\.0 s") as caught:
        instance.check(1, now)
    assert caught.value.retry_after_seconds == 9
    with pytest.raises(DeadlineUnreachable):
        instance.check(1, now + 8)
    instance.free(3)
    instance.check(1, now)  # nothing waits: it may be in time, whatever was measured


async def test_batching_is_described_for_clients(instance: ModelInstance) -> None:
    assert instance.batching.model_dump() == {
        "widths": [{"threads": 1, "max_batch_size": 4}],
        "max_queue_delay_microseconds": 0,
        "max_queue_size": 8,
        "measurements": [{"threads": 1, "batch_size": 1, "seconds": 2.0}],
        "measured_at": (64, 96),
    }


async def test_a_session_that_ran_out_of_memory_is_reopened(
    instance: ModelInstance, session: FakeSession
) -> None:
    session.error = OutOfMemory("no")
    with pytest.raises(OutOfMemory):
        await infer(instance, [image(1)])
    session.error = None
    assert await infer(instance, [image(2)]) == [2]


class FullSession:
    """Runs out of memory on every batch."""

    placement = Placement("cuda", "cuda")

    def run(self, images: list, outputs: list) -> list:
        raise OutOfMemory("no")


async def test_a_session_that_ran_out_of_memory_is_freed_before_a_new_one_is_opened(
    new_instance: NewInstance,
) -> None:
    """Even while the caller keeps the error, whose traceback leads to the session."""
    full = FullSession()
    gone, opened = weakref.ref(full), []

    def open_session(threads: int) -> FakeSession:
        opened.append(gone())
        return FakeSession()

    instance = new_instance(GraphSessions({1: full}, open_session))
    del full
    with pytest.raises(OutOfMemory) as caught:
        await infer(instance, [image(1)])
    assert await infer(instance, [image(2)]) == [2]
    assert opened == [None]
    assert caught.value.__traceback__ is not None


async def test_an_outage_is_announced_when_it_begins_and_when_it_ends(
    new_instance: NewInstance, session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "REOPEN_SECONDS", 0)
    announced, ended = [], asyncio.Event()

    def on_outage() -> None:
        announced.append(instance.outage)
        if instance.outage is None:
            ended.set()

    opening: list[Exception | None] = [InvalidEntry("no file"), None]

    def open_session(threads: int) -> FakeSession:
        error = opening.pop(0)
        if error is not None:
            raise error
        return session

    instance = new_instance(GraphSessions({1: session}, open_session))
    instance.on_outage = on_outage
    session.error = OutOfMemory("no")
    with pytest.raises(OutOfMemory):
        await infer(instance, [image(1)])
    await asyncio.wait_for(ended.wait(), 20)
    assert announced == [recovery.NO_SESSION, None]
    session.error = None
    assert await infer(instance, [image(2)]) == [2]


def test_the_time_of_a_request_is_split_in_the_proportion_of_its_executions() -> None:
    one = Answer({"labels": 1}, Run(started=13.0, prepared=14.0, ended=16.0, batch_size=2))
    two = Answer({"labels": 2}, Run(started=12.0, prepared=12.0, ended=13.0, batch_size=1))
    inference = combine([one, two], arrived_at=10.0, ended_at=20.0)
    assert inference == Inference(
        outputs=[{"labels": 1}, {"labels": 2}],
        queue_seconds=2.0,
        decode_seconds=2.0,
        compute_seconds=6.0,
        batch_size=2,
    )


async def test_an_instance_is_drained_once_nothing_holds_it(instance: ModelInstance) -> None:
    await instance.drain(0)
    instance.hold()
    instance.hold()
    draining = asyncio.create_task(instance.drain(FOREVER))
    await asyncio.sleep(0)
    instance.let_go()
    await asyncio.sleep(0)
    assert not draining.done()
    instance.let_go()
    await draining


async def test_draining_ends_at_its_limit(instance: ModelInstance) -> None:
    instance.hold()
    await asyncio.wait_for(instance.drain(0), 20)


async def test_a_closed_instance_has_no_sessions(
    new_instance: NewInstance, session: FakeSession
) -> None:
    sessions = GraphSessions({1: session}, lambda _: session)
    await new_instance(sessions).close()
    assert sessions.each() == []
