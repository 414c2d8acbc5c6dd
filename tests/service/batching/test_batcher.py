"""Batches form, run and end, and every image is answered. Executions are gated by events."""

import asyncio
import random

import pytest

from service.batching import batcher as batcher_module
from service.batching.plan import ExecutionPlan
from service.errors import DeadlineExceeded, InvalidRequest, ServerStopping
from service.images.photo import PreparedImage
from service.runtime.device import Device
from service.schema.model_status import Measurement
from tests.service.batching.batches import FOREVER, answers, images, new_batcher, width
from tests.service.conftest import until


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


class Encoded:
    """A photo that is prepared when it runs."""

    prepared = None

    def __init__(self, image: PreparedImage, shape: tuple[int, ...] | None) -> None:
        self.prepare = lambda: image
        self.shape = shape


@pytest.mark.parametrize(
    ("shape", "batches"), [(None, [[0], [1], [2], [3]]), ((2, 2, 3), [[0, 1, 2, 3]])]
)
async def test_photos_that_are_not_prepared_share_a_batch_if_their_shape_is_known(
    batcher, execute, shape, batches
):
    pending = images(*range(4))
    for each in pending:
        each.photo = Encoded(each.photo, shape)
    batcher().submit(pending)
    execute.open()
    assert await answers(pending) == [0, 1, 2, 3]
    assert execute.batches == batches


async def test_a_refused_photo_fails_alone(batcher, execute):
    pending = images(1, 2, 3)
    execute.refuses = {2}
    batcher().submit(pending)
    execute.open()
    assert await answers(pending) == [1, InvalidRequest, 3]


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


async def test_draining_ends_when_the_last_waiting_image_is_withdrawn(execute, events):
    device, pending = Device(1), images(1)
    each = new_batcher(execute, ExecutionPlan((width(1, 4),)), device, events)
    device.take(1)
    device.take(1)  # lined up: there is no room
    each.submit(pending)
    draining = asyncio.ensure_future(each.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    each.withdraw(pending)
    await asyncio.wait_for(draining, 20)
    assert events.of("images_dropped") == [(1, "cancelled")]


async def test_an_answered_image_is_not_dropped_when_it_is_withdrawn(batcher, execute, events):
    each, pending = batcher(), images(1)
    each.submit(pending)
    execute.open()
    assert await answers(pending) == [1]
    each.withdraw(pending)
    assert await answers(pending) == [1]
    assert events.of("images_dropped") == []


async def test_an_image_does_not_overtake_those_that_wait_for_more_cores(batcher, execute):
    each = batcher(width(2, 1), slots=3)
    first, second, third = images(1), images(2), images(3)
    for pending in (first, second, third):
        each.submit(pending)
    assert (each.executing, list(each.queue.waiting)) == (1, [*second, *third])
    execute.open()
    assert await answers([*first, *second, *third]) == [1, 2, 3]
    assert execute.batches == [[1], [2], [3]]


async def test_images_whose_execution_is_cancelled_are_not_left_waiting(execute, events):
    device, pending = Device(1), images(1)
    each = new_batcher(execute, ExecutionPlan((width(1, 4),)), device, events)
    cancelled = asyncio.get_running_loop().create_future()
    cancelled.cancel()
    execute.execute = lambda execution: cancelled
    each.submit(pending)
    assert await answers(pending) == [ServerStopping]
    assert device.free == 1


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


@pytest.mark.parametrize(
    ("is_on_cpu", "image_cpu_seconds", "batches"),
    [
        (True, 0.0009, [[0], [1], [2, 3, 4, 5], [6]]),
        (True, 0.0011, [[0], [1], [2], [3, 4], [5], [6]]),
        (False, 0.0009, [[0], [1], [2], [3, 4, 5, 6]]),
    ],
)
async def test_executions_of_light_images_take_turns_on_a_cpu(
    batcher, execute, is_on_cpu, image_cpu_seconds, batches
):
    each = batcher(width(1, 4), slots=2, is_on_cpu=is_on_cpu)
    execute.image_cpu_seconds = image_cpu_seconds
    first = images(0)
    each.submit(first)
    execute.open(1)
    assert await answers(first) == [0]
    pending = images(1, 2, 3, 4, 5, 6)
    for image in pending:
        each.submit([image])
    await execute.begun.acquire()
    execute.open()
    assert await answers(pending) == [1, 2, 3, 4, 5, 6]
    assert execute.batches == batches


async def test_a_core_takes_its_share_of_the_waiting_images(batcher, execute):
    each = batcher(width(1, 4), slots=2, is_on_cpu=True)
    pending = images(*range(10))
    for image in pending[:2]:
        each.submit([image])
    each.submit(pending[2:])  # 8 wait: two full batches are lined up
    execute.open()
    assert await answers(pending) == list(range(10))
    assert execute.batches == [[0], [1], [2, 3, 4, 5], [6, 7], [8], [9]]


async def test_a_core_does_not_share_images_that_wait_to_fill_a_batch(batcher, execute):
    each = batcher(width(1, 4), slots=2, is_on_cpu=True, max_queue_delay_seconds=FOREVER)
    pending = images(0, 1, 2, 3)
    each.submit(pending)
    execute.open()
    assert await answers(pending) == [0, 1, 2, 3]
    assert execute.batches == [[0, 1, 2, 3]]
