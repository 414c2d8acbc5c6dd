"""Out of memory, lost sessions and hangs: every image is answered, and the model recovers."""

import asyncio

import pytest

from service.batching import recovery
from service.batching.plan import ExecutionPlan
from service.errors import InferenceFailed, ModelNotReady, OutOfMemory
from service.runtime.device import Device
from tests.service.batching.batches import answers, images, new_batcher, width
from tests.service.conftest import until


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
    execute, events, monkeypatch
):
    monkeypatch.setattr(recovery, "REOPEN_SECONDS", 0)
    device = Device(1)
    each = new_batcher(execute, ExecutionPlan((width(1, 4),)), device, events)
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
    assert device.free == 1


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
    each.recovery.hang(next(run for run in each.recovery.watched if run.members == hanging), 1.0)
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


async def test_the_outage_lasts_until_every_hang_has_ended(batcher, execute, events, monkeypatch):
    monkeypatch.setattr(recovery, "HANG_SECONDS", 0.01)
    changes = []
    each = batcher(slots=2, outage_changed=changes.append)
    first, second = images(1), images(2)
    for pending in (first, second):
        each.submit(pending)
    assert await answers([*first, *second]) == [InferenceFailed] * 2
    assert events.of("execution_hung") == [(0.01,), (0.01,)]
    with pytest.raises(ModelNotReady, match="not responding"):
        each.submit(images(3))
    execute.permits.release()
    await until(lambda: each.executing == 1)
    assert changes == [recovery.HUNG]
    execute.permits.release()
    await until(lambda: not each.executing)
    assert changes == [recovery.HUNG, None]
    assert events.of("execution_recovered") == [()]


async def test_an_execution_with_a_shorter_limit_hangs_before_earlier_ones(
    batcher, execute, events, monkeypatch
):
    each, patient, impatient = batcher(slots=2), images(1), images(2)
    monkeypatch.setattr(recovery, "HANG_SECONDS", 1e6)
    each.submit(patient)
    monkeypatch.setattr(recovery, "HANG_SECONDS", 0.0)
    each.submit(impatient)
    assert await answers(impatient) == [InferenceFailed]
    assert events.of("execution_hung") == [(0.0,)]
    execute.open()
    assert await answers(patient) == [1]


async def test_a_drained_batcher_leaves_no_timer_behind(batcher, execute):
    each, pending = batcher(), images(1)
    each.submit(pending)
    execute.open()
    assert await answers(pending) == [1]
    await asyncio.wait_for(each.drain(), 20)
    assert each.recovery._check is None


async def test_a_hang_leaves_its_slot_to_the_other_models(execute, events):
    device = Device(1)
    plan = ExecutionPlan((width(1, 1),))
    hanging, other = (new_batcher(execute, plan, device, events) for _ in range(2))
    hanging.submit(images(1))
    await execute.begun.acquire()
    (execution,) = hanging.recovery.watched
    hanging.recovery.hang(execution, 1.0)
    assert device.free == 1
    pending = images(2)
    other.submit(pending)
    execute.open()
    assert await answers(pending) == [2]
    await until(lambda: not hanging.executing)
    assert device.free == 1


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
