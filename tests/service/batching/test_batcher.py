"""Batches form, run and end, and every image is answered. Executions are gated by events."""

import asyncio
import random
from collections.abc import Sequence

import numpy as np
import pytest

from service.batching import batcher as batcher_module
from service.batching import recovery
from service.batching.batcher import DynamicBatcher
from service.batching.plan import ExecutionPlan
from service.batching.queue import Answer, PendingInference, Run, Urgency
from service.batching.runner import Answered, Execution
from service.errors import (
    DeadlineExceeded,
    InferenceFailed,
    InvalidEntry,
    ModelNotReady,
    OutOfMemory,
    ServerStopping,
)
from service.images.photo import Photo, PreparedImage
from service.runtime.device import Device
from service.schema.model_status import Measurement, Width
from service.schema.vocabulary import Task
from service.telemetry.events import ModelIdentity
from service.telemetry.statistics import Statistics
from tests.service.conftest import until

FOREVER = 1e12
MODEL = ModelIdentity("model", "1", Task.CLASSIFICATION)


def width(threads: int, max_batch_size: int) -> Width:
    return Width(threads=threads, max_batch_size=max_batch_size)


class GatedRunner:
    """Answers each image with its own first byte, once it has a permit."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.permits = asyncio.Semaphore(0)
        self.begun = asyncio.Semaphore(0)
        self.errors: list[Exception | None] = []
        self.rebuilt: list[int] = []
        self.rebuilds = True
        self.held = asyncio.Event()
        self.held.set()

    def rebuild(self, threads: int) -> asyncio.Future[None]:
        self.rebuilt.append(threads)
        rebuilding = asyncio.get_running_loop().create_future()
        if self.rebuilds:
            rebuilding.set_result(None)
        else:
            rebuilding.set_exception(InvalidEntry("the file is gone"))
        return rebuilding

    def execute(self, execution: Execution) -> asyncio.Future[Answered]:
        return asyncio.ensure_future(self._execute(execution))

    async def _execute(self, execution: Execution) -> Answered:
        await self.held.wait()
        running = [member for member in execution.members if not member.future.done()]
        if not running:
            raise asyncio.CancelledError
        for member in running:
            member.has_started = True
        marks = [int(member.photo.prepare().pixels.flat[0]) for member in running]
        self.batches.append(marks)
        self.threads.append(execution.width.threads)
        self.begun.release()
        await self.permits.acquire()
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        run = Run(0.0, 0.0, 1.0, len(running))
        return [
            (member, Answer({"mark": np.array(mark)}, run))
            for member, mark in zip(running, marks, strict=True)
        ]

    def open(self, times: int = 1000) -> None:
        for _ in range(times):
            self.permits.release()


class Recorder:
    """Remembers the reported events."""

    def __init__(self) -> None:
        self.calls: list[tuple] = []

    def __getattr__(self, name: str):
        return lambda *arguments: self.calls.append((name, *arguments))

    def of(self, name: str) -> list[tuple]:
        return [call[2:] for call in self.calls if call[:2] == (name, MODEL)]


@pytest.fixture
def execute() -> GatedRunner:
    return GatedRunner()


@pytest.fixture
def events() -> Recorder:
    return Recorder()


def new_batcher(
    runner: GatedRunner, plan: ExecutionPlan, device: Device, events: Recorder
) -> DynamicBatcher:
    return DynamicBatcher(
        identity=MODEL,
        runner=runner,
        plan=plan,
        device=device,
        events=events,
        statistics=Statistics(),
    )


@pytest.fixture
def batcher(execute, events):
    """Make a batcher; by default one slot and batches of four."""

    def make(*widths: Width, slots: int = 1, **plan) -> DynamicBatcher:
        plan = ExecutionPlan(widths or (width(1, 4),), **plan)
        return new_batcher(execute, plan, Device(slots), events)

    return make


def images(
    *marks: int, deadline: float = FOREVER, side: int = 2, is_background: bool = False
) -> list[PendingInference]:
    loop = asyncio.get_running_loop()
    return [
        PendingInference(
            Photo.ready(PreparedImage(np.full((side, side, 3), mark, np.uint8), side, side)),
            ("mark",),
            Urgency(deadline, is_background=is_background),
            loop.time(),
            loop.create_future(),
        )
        for mark in marks
    ]


async def answers(pending: Sequence[PendingInference]) -> list[object]:
    """Return the marks of the answers, or the types of the errors."""
    results = await asyncio.wait_for(
        asyncio.gather(*(each.future for each in pending), return_exceptions=True), 20
    )
    return [int(r.outputs["mark"]) if isinstance(r, Answer) else type(r) for r in results]


async def test_a_free_slot_takes_a_waiting_image_at_once(batcher, execute, events):
    pending = images(7)
    batcher().submit(pending)
    await execute.begun.acquire()
    execute.open()
    assert await answers(pending) == [7]
    assert events.of("batch_dispatched") == [(1, "idle", 4)]


async def test_a_full_batch_is_lined_up_behind_the_one_that_runs(batcher, execute):
    each = batcher(width(1, 2))
    pending = images(1, 2, 3, 4, 5, 6)
    each.submit(pending)
    for _ in range(2):
        await execute.begun.acquire()
    assert (each.executing, len(each.queue.waiting)) == (2, 2)
    execute.open()
    assert await answers(pending) == [1, 2, 3, 4, 5, 6]
    assert execute.batches == [[1, 2], [3, 4], [5, 6]]


async def test_nothing_is_lined_up_behind_an_execution_on_several_cores(batcher, execute):
    each = batcher(width(1, 1), width(2, 1), slots=2)
    alone, later = images(1), images(2)
    each.submit(alone)
    await execute.begun.acquire()
    each.submit(later)
    assert (each.executing, len(each.queue.waiting)) == (1, 1)
    execute.open()
    assert await answers([*alone, *later]) == [1, 2]


async def test_an_image_withdrawn_from_a_lined_up_batch_is_not_run(batcher, execute, events):
    each = batcher(width(1, 1))
    runs, lined_up = images(1), images(2)
    each.submit(runs)
    await execute.begun.acquire()
    execute.held = asyncio.Event()
    each.submit(lined_up)
    each.withdraw(lined_up)
    execute.held.set()
    execute.open()
    assert await answers(runs) == [1]
    await until(lambda: not each.executing)
    assert execute.batches == [[1]]
    assert events.of("images_dropped") == [(1, "cancelled")]


async def test_images_that_come_while_the_slot_is_taken_share_the_next_batch(batcher, execute):
    each = batcher()
    first, second, third = images(1), images(2, 3), images(4)
    each.submit(first)
    await execute.begun.acquire()
    each.submit(second)
    each.submit(third)
    execute.open()
    assert await answers([*first, *second, *third]) == [1, 2, 3, 4]
    assert execute.batches == [[1], [2, 3, 4]]


async def test_more_images_than_the_largest_batch_are_split(batcher, execute, events):
    pending = images(*range(10))
    batcher().submit(pending)
    execute.open()
    assert await answers(pending) == list(range(10))
    assert [len(batch) for batch in execute.batches] == [4, 4, 2]
    assert events.of("batch_dispatched") == [(4, "full", 4), (4, "full", 4), (2, "idle", 4)]


async def test_images_of_different_shapes_never_share_a_batch(batcher, execute):
    each = batcher()
    blocker, small, large = images(0), images(1, 2), images(3, 4, side=4)
    each.submit(blocker)
    await execute.begun.acquire()
    each.submit(small)
    each.submit(large)
    execute.open()
    assert await answers([*blocker, *small, *large]) == [0, 1, 2, 3, 4]
    assert execute.batches == [[0], [1, 2], [3, 4]]


async def test_photos_that_are_not_prepared_run_alone(batcher, execute):
    pending = images(*range(4))
    for each in pending:
        image, each.photo.prepared = each.photo.prepared, None
        each.photo.prepare = lambda image=image: image
    batcher().submit(pending)
    execute.open()
    assert await answers(pending) == [0, 1, 2, 3]
    assert execute.batches == [[0], [1], [2], [3]]


async def test_answers_keep_their_order_whatever_the_load(batcher, execute):
    each = batcher(width(1, 3), width(2, 8), slots=3)
    chance = random.Random(0)  # noqa: S311
    execute.open(10_000)
    requests = []
    for _ in range(60):
        marks = [chance.randrange(256) for _ in range(chance.randint(1, 9))]
        request = images(*marks, side=chance.choice((2, 4)), deadline=FOREVER + chance.random())
        each.submit(request)
        requests.append((marks, request))
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    for marks, request in requests:
        assert await answers(request) == marks


async def test_one_withdrawn_of_four_waiting_images_leaves_three_answers(batcher, execute, events):
    each = batcher(width(1, 8))
    blocker, four = images(0), images(1, 2, 3, 4)
    each.submit(blocker)
    await execute.begun.acquire()
    each.submit(four)
    each.withdraw([four[1]])
    execute.open()
    assert await answers(four) == [1, asyncio.CancelledError, 3, 4]
    assert execute.batches == [[0], [1, 3, 4]]
    assert events.of("images_dropped") == [(1, "cancelled")]


async def test_one_withdrawn_of_four_running_images_leaves_three_answers(batcher, execute, events):
    each, four = batcher(), images(1, 2, 3, 4)
    each.submit(four)
    await execute.begun.acquire()
    each.withdraw([four[2]])
    execute.open()
    assert await answers(four) == [1, 2, asyncio.CancelledError, 4]
    assert events.of("images_dropped") == []


async def test_an_exception_fails_its_batch_alone(batcher, execute):
    each = batcher()
    bad, good = images(1, 2, 3, 4), images(5, 6)
    execute.errors = [ValueError("broken")]
    each.submit(bad)
    each.submit(good)
    execute.open()
    assert await answers(bad) == [ValueError] * 4
    assert await answers(good) == [5, 6]


async def test_an_image_that_cannot_end_in_time_is_never_started(batcher, execute, events):
    now = asyncio.get_running_loop().time()
    each = batcher(pixels=4, measurements=(Measurement(threads=1, batch_size=1, seconds=100.0),))
    late, early = images(1, deadline=now + 50), images(2, deadline=now + 5000)
    each.submit([*late, *early])
    execute.open()
    assert await answers(late) == [DeadlineExceeded]
    assert await answers(early) == [2]
    assert execute.batches == [[2]]
    assert events.of("images_dropped") == [(1, "deadline")]


async def test_a_single_image_gets_every_core_and_many_get_one_each(batcher, execute):
    each = batcher(width(1, 1), width(4, 1), slots=4)
    alone = images(1)
    each.submit(alone)
    await execute.begun.acquire()
    execute.open()
    assert await answers(alone) == [1]
    many = images(2, 3, 4, 5, 6)
    each.submit(many)
    assert await answers(many) == [2, 3, 4, 5, 6]
    assert execute.threads == [4, 1, 1, 1, 1, 1]


async def test_a_background_image_uses_a_single_core(batcher, execute):
    each = batcher(width(1, 1), width(4, 1), slots=4)
    background = images(1, is_background=True)
    each.submit(background)
    await execute.begun.acquire()
    execute.open()
    assert await answers(background) == [1]
    assert execute.threads == [1]


async def test_widths_follow_the_images_in_flight_even_if_only_one_waits_at_a_time(
    batcher, execute
):
    each = batcher(width(1, 1), width(2, 1), slots=2)
    execute.open(10_000)
    for load in (1, 2, 1):
        each.in_flight = load
        for mark in range(2 * batcher_module.REMEMBERED_DISPATCHES):
            pending = images(mark)
            each.submit(pending)
            await answers(pending)
    runs = 2 * batcher_module.REMEMBERED_DISPATCHES
    assert execute.threads[runs - 1] == 2
    assert execute.threads[2 * runs - 1] == 1
    assert execute.threads[3 * runs - 1] == 2


async def test_two_models_share_the_cores_and_take_turns(execute, events):
    device = Device(1)
    plan = ExecutionPlan((width(1, 1),))
    one, two = (new_batcher(execute, plan, device, events) for _ in range(2))
    first, second = images(1, 2, 3), images(11, 12, 13)
    one.submit(first)
    two.submit(second)
    execute.open()
    assert await answers([*first, *second]) == [1, 2, 3, 11, 12, 13]
    order = [batch[0] > 10 for batch in execute.batches]
    assert order == [False, False, True, True, False, True]  # one runs, one is lined up
    assert device.free == 1


async def test_a_batch_waits_to_be_filled_only_for_the_queue_delay(batcher, execute, events):
    each = batcher(max_queue_delay_seconds=0.01)
    alone = images(1)
    each.submit(alone)
    assert execute.batches == []
    execute.open()
    assert await answers(alone) == [1]
    full = images(2, 3, 4, 5)
    each.submit(full)
    assert await answers(full) == [2, 3, 4, 5]
    assert events.of("batch_dispatched") == [(1, "delay", 4), (4, "full", 4)]


async def test_a_batch_without_memory_is_retried_in_halves(batcher, execute, events):
    each = batcher(width(1, 8))
    execute.errors = [OutOfMemory("no memory")]
    pending = images(*range(8))
    each.submit(pending)
    execute.open()
    assert await answers(pending) == list(range(8))
    later = images(*range(8))
    each.submit(later)
    assert await answers(later) == list(range(8))
    assert [len(batch) for batch in execute.batches] == [8, 4, 4, 4, 4]
    assert events.of("ran_out_of_memory") == [(4,)]


async def test_images_that_run_out_of_memory_twice_fail(batcher, execute):
    execute.errors = [OutOfMemory("no memory")] * 2
    pending = images(1, 2)
    batcher().submit(pending)
    execute.open()
    assert sorted(map(str, await answers(pending))) == sorted(map(str, [OutOfMemory, 2]))
    assert execute.rebuilt == [1]


async def lose_session(each, execute):
    """Submit an image that will run out of memory, with a session that cannot be reopened."""
    execute.errors, execute.rebuilds = [OutOfMemory("no memory")], False
    pending = images(1)
    each.submit(pending)
    await execute.begun.acquire()
    return pending


async def test_without_a_session_all_images_are_refused_until_it_is_reopened(
    batcher, execute, events, monkeypatch
):
    monkeypatch.setattr(recovery, "REOPEN_SECONDS", 0)
    each = batcher()
    pending = [*await lose_session(each, execute), *images(2, 3, 4, 5, 6)]
    each.submit(pending[1:])
    execute.permits.release()
    await until(lambda: each.recovery.outage == recovery.NO_SESSION)
    assert await answers(pending[:1]) == [OutOfMemory]
    with pytest.raises(ModelNotReady, match="could not be reopened"):
        each.submit(images(7))
    assert events.of("session_lost") == [()]
    execute.open()
    assert await answers(pending[1:]) == [2, 3, 4, 5, ModelNotReady]
    await until(lambda: len(execute.rebuilt) >= 3)
    assert each.recovery.outage == recovery.NO_SESSION
    assert events.of("session_lost") == [()]
    execute.rebuilds = True
    await until(lambda: each.recovery.outage is None)
    assert events.of("session_recovered") == [()]
    again = images(8)
    each.submit(again)
    assert await answers(again) == [8]
    assert each._device.free == each._device.slots


async def test_batches_that_run_out_of_memory_together_reopen_their_session_once(batcher, execute):
    each = batcher(slots=2)
    pending = [*images(1), *images(2)]
    execute.errors = [OutOfMemory("no memory")] * 2
    for one in pending:
        each.submit([one])
        await execute.begun.acquire()
    execute.open()
    assert await answers(pending) == [OutOfMemory] * 2
    await until(lambda: not each.executing)
    assert execute.rebuilt == [1]


async def test_a_session_of_an_unloaded_model_is_not_reopened_again(
    batcher, execute, events, monkeypatch
):
    monkeypatch.setattr(recovery, "REOPEN_SECONDS", 0)
    each = batcher()
    pending = await lose_session(each, execute)
    each.abort()
    execute.open()
    assert await answers(pending) == [OutOfMemory]
    await asyncio.wait_for(each.drain(), 20)
    for _ in range(10):
        await asyncio.sleep(0)
    assert execute.rebuilt == [1]
    assert events.of("session_lost") == []


async def test_a_hang_that_ends_does_not_hide_a_lost_session(batcher, execute, events):
    each, failing, hanging = batcher(slots=2), images(8), images(9)
    for pending in (failing, hanging):
        each.submit(pending)
        await execute.begun.acquire()
    each.recovery.hang(next(run for run in each._executions if run.members == hanging), 1.0)
    execute.errors, execute.rebuilds = [OutOfMemory("no memory")], False
    execute.permits.release()
    assert await answers([*failing, *hanging]) == [OutOfMemory, InferenceFailed]
    await until(lambda: events.of("session_lost"))
    assert each.recovery.outage == recovery.HUNG
    execute.permits.release()
    await until(lambda: not each.recovery.is_hung)
    assert each.recovery.outage == recovery.NO_SESSION
    reported = [call[0] for call in events.calls]
    assert reported[-3:] == ["session_lost", "execution_recovered", "session_lost"]


async def test_a_hang_fails_its_images_and_is_reported_until_it_ends(
    batcher, execute, events, monkeypatch
):
    monkeypatch.setattr(recovery, "HANG_SECONDS", 0.01)
    each = batcher()
    pending = images(1)
    each.submit(pending)
    assert await answers(pending) == [InferenceFailed]
    assert each.recovery.outage == recovery.HUNG
    assert events.of("execution_hung") == [(0.01,)]
    execute.open()
    await until(lambda: not each.executing)
    assert each.recovery.outage is None
    assert events.of("execution_recovered") == [()]


async def test_hangs_of_an_unloaded_model_are_not_reported(batcher, execute, events, monkeypatch):
    monkeypatch.setattr(recovery, "HANG_SECONDS", 0.01)
    each = batcher()
    pending = images(1)
    each.submit(pending)
    each.abort()
    assert await answers(pending) == [InferenceFailed]
    execute.open()
    await until(lambda: not each.executing)
    assert events.of("execution_hung") == events.of("execution_recovered") == []


async def test_draining_answers_everything_and_accepts_nothing_more(batcher, execute):
    each = batcher()
    pending = images(*range(9))
    each.submit(pending)
    draining = asyncio.ensure_future(each.drain())
    await asyncio.sleep(0)
    with pytest.raises(ServerStopping):
        each.submit(images(1))
    assert not draining.done()
    execute.open()
    await asyncio.wait_for(draining, 20)
    assert await answers(pending) == list(range(9))


async def test_an_idle_batcher_is_drained_at_once(batcher):
    await asyncio.wait_for(batcher().drain(), 20)


async def test_aborting_fails_waiting_images_and_finishes_running_ones(batcher, execute):
    each = batcher(width(1, 1))
    runs, lined_up, waits = images(1), images(2), images(3, 4)
    each.submit(runs)
    await execute.begun.acquire()
    each.submit(lined_up)
    each.submit(waits)
    each.abort()
    assert await answers(waits) == [ServerStopping] * 2
    execute.open()
    assert await answers([*runs, *lined_up]) == [1, 2]
