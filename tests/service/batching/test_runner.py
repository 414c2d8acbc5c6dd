"""A batch runs without the members that are no longer waited for."""

import asyncio
from collections.abc import Iterator

import pytest

from service.batching.queue import PendingInference
from service.batching.runner import BatchRunner, Execution
from service.errors import InferenceFailed, InvalidRequest
from service.runtime.execution_providers import Placement
from service.runtime.graph_sessions import GraphSessions
from service.runtime.worker_threads import WorkerThreads
from tests.service.batching.batches import images, width


class FakeSession:
    """Answers each image with its first value."""

    placement = Placement("cpu", "cpu")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.error: Exception | None = None

    def run(self, batch: list, outputs: list) -> list:
        self.batches.append(len(batch))
        if self.error is not None:
            raise self.error
        return [[image.flat[0] for image in batch] for _ in outputs]


@pytest.fixture
def session() -> FakeSession:
    return FakeSession()


@pytest.fixture
def runner(session: FakeSession) -> Iterator[BatchRunner]:
    workers = WorkerThreads(1, "test")
    yield BatchRunner(GraphSessions({1: session}, lambda _: session), workers)
    assert workers.close(20)


def execution(members: list[PendingInference]) -> Execution:
    return Execution(members, width(1, 4), 0.0)


async def test_members_that_are_done_are_left_out(runner: BatchRunner, session: FakeSession):
    members = images(1, 2, 3, 4)
    members[0].future.cancel()
    members[2].future.set_exception(ValueError("failed meanwhile"))
    assert members[2].future.exception()
    executed = await runner.execute(execution(members))
    assert [member for member, _ in executed.answers] == [members[1], members[3]]
    assert [answer.outputs for _, answer in executed.answers] == [{"mark": 2}, {"mark": 4}]
    assert {answer.run.batch_size for _, answer in executed.answers} == {2}
    assert executed.refused == []
    assert [member.has_started for member in members] == [False, True, False, True]
    assert session.batches == [2]


class Damaged:
    """A photo that cannot be prepared."""

    prepared = None
    shape = (2, 2, 3)

    def prepare(self) -> None:
        raise InvalidRequest("it is damaged")


@pytest.mark.parametrize("at", [0, 1, 2])
async def test_a_photo_that_cannot_be_prepared_leaves_its_batch_mates_alone(
    runner: BatchRunner, session: FakeSession, at: int
):
    members = images(1, 2, 3)
    members[at].photo = Damaged()
    executed = await runner.execute(execution(members))
    others = [member for member in members if member is not members[at]]
    assert [member for member, _ in executed.answers] == others
    ((refused, error),) = executed.refused
    assert (refused, str(error)) == (members[at], "it is damaged")
    assert session.batches == [2]


async def test_a_batch_whose_photos_cannot_be_prepared_does_not_run(
    runner: BatchRunner, session: FakeSession
):
    (member,) = images(1)
    member.photo = Damaged()
    executed = await runner.execute(execution([member]))
    assert (executed.answers, len(executed.refused), session.batches) == ([], 1, [])


async def test_a_batch_without_members_does_not_run(runner: BatchRunner, session: FakeSession):
    members = images(1, 2)
    for member in members:
        member.future.cancel()
    with pytest.raises(asyncio.CancelledError):
        await runner.execute(execution(members))
    assert session.batches == []


async def test_times_are_in_order(runner: BatchRunner):
    ((_, answer),) = (await runner.execute(execution(images(1)))).answers
    times = answer.run[:3]
    assert list(times) == sorted(times)


async def test_a_failure_is_the_result_of_the_execution(runner: BatchRunner, session: FakeSession):
    session.error = InferenceFailed("no")
    with pytest.raises(InferenceFailed, match="no"):
        await runner.execute(execution(images(1, 2)))


async def test_a_rebuilt_session_runs_the_next_batch(session: FakeSession):
    workers, new = WorkerThreads(1, "test"), FakeSession()
    runner = BatchRunner(GraphSessions({1: session}, lambda _: new), workers)
    await runner.rebuild(1)
    await runner.execute(execution(images(1)))
    assert (session.batches, new.batches) == ([], [1])
    assert workers.close(20)
