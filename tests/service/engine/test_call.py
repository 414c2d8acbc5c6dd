"""A call: its deadline, what it holds and gives back, and the one place that counts its outcome."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.engine.call import Call
from service.engine.engine import Engine
from service.errors import (
    DeadlineExceeded,
    InvalidRequest,
    ModelNotReady,
    Outcome,
    QueueFull,
    ServerStopping,
)
from service.settings import Settings
from tests.service.conftest import until


@pytest.fixture
async def engine(repository: Path) -> AsyncIterator[Engine]:
    settings = Settings(model_repository=repository, max_concurrent_requests=1)
    async with Engine.from_settings(settings) as running:
        yield running


def call(engine: Engine, timeout_seconds: float | None = None) -> Call:
    return engine.call(engine.repository.get("colour"), timeout_seconds)


def counted(engine: Engine) -> dict[str, float]:
    """The requests of the model by outcome."""
    labels = {"model": "colour", "version": "1", "task": "classification"}
    value = engine.metrics.registry.get_sample_value
    values = {
        each: value("vt_inference_requests_total", {**labels, "outcome": each})
        for each in Outcome.__args__
    }
    return {outcome: count for outcome, count in values.items() if count}


async def test_a_request_can_shorten_its_deadline_but_not_extend_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)
    deadlines = [call(engine, seconds).deadline for seconds in (None, 0.5, 1000)]
    assert deadlines == [1030, 1000.5, 1030]
    assert [call(engine, seconds).is_default_deadline for seconds in (None, 30)] == [True, False]


async def test_a_call_that_exceeds_its_deadline_ends_and_is_counted(engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0.01 s"):
        async with call(engine, 0.01):
            await asyncio.Event().wait()
    assert engine.admission.is_empty
    assert counted(engine) == {"timeout": 1}


async def test_a_deadline_can_be_shortened_and_never_extended(engine: Engine) -> None:
    running = call(engine)

    async def work() -> None:
        async with running:
            running.shorten(0.01)
            running.shorten(60)
            await asyncio.Event().wait()

    with pytest.raises(DeadlineExceeded, match=r"within 0.01 s"):
        await work()
    assert not running.is_default_deadline


async def test_a_timeout_error_of_the_work_is_not_the_deadline(engine: Engine) -> None:
    with pytest.raises(TimeoutError):
        async with call(engine):
            raise TimeoutError
    assert counted(engine) == {"error": 1}


async def test_a_cancelled_call_is_counted_and_releases_its_resources(engine: Engine) -> None:
    async def work() -> None:
        async with call(engine) as running:
            running.take_bytes(1000)
            running.take_place()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await until(lambda: engine.admission.in_flight == 1)
    with pytest.raises(QueueFull):
        await call(engine).__aenter__()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (engine.admission.is_empty, engine.admission.in_flight) == (True, 0)
    assert counted(engine) == {"cancelled": 1, "rejected_full": 1}


async def test_an_abort_ends_calls_with_the_error_of_a_stopping_server(engine: Engine) -> None:
    async def work() -> None:
        async with call(engine) as running:
            running.take_place()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await until(lambda: engine.admission.in_flight == 1)
    engine.admission.abort()
    with pytest.raises(ServerStopping):
        await task


async def test_a_version_is_held_until_the_call_ends(engine: Engine) -> None:
    async with call(engine):
        unloading = asyncio.create_task(engine.repository.unload("colour"))
        await until(lambda: not engine.repository.get("colour").is_ready)
        assert not unloading.done()
        with pytest.raises(ModelNotReady):
            await call(engine).__aenter__()
    await unloading
    assert counted(engine) == {"ok": 1, "unavailable": 1}


async def test_an_error_of_the_tree_has_its_own_outcome(engine: Engine) -> None:
    with pytest.raises(InvalidRequest):
        async with call(engine) as running:
            await running.infer([])
    assert counted(engine) == {"bad_input": 1}
    assert running.outcome == "bad_input"
