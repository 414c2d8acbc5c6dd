"""A batch runs on the session for its number of threads; a lost session can be reopened."""

import threading
import weakref

import numpy as np
import pytest

from service.errors import InferenceFailed, InvalidEntry, ModelNotReady
from service.runtime.execution_providers import CPU, CUDA, Placement
from service.runtime.graph_sessions import GraphSessions, SessionGroup

ON_CPU, ON_CUDA = Placement(CUDA, CPU), Placement(CUDA, CUDA)


class FakeSession:
    """Answers each image with its first value, and a second output with its double."""

    def __init__(self, lost: int = 0, on: Placement = ON_CPU) -> None:
        self.lost = lost
        self.placement = on
        self.batches: list[np.ndarray] = []

    def run(self, images: list, outputs: list) -> list:
        self.batches.append(images)
        first = np.stack(images)[: len(images) - self.lost, 0, 0, 0].astype(int)
        return [first * (index + 1) for index in range(len(outputs))]


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


def test_each_image_gets_its_own_outputs_from_the_requested_session():
    narrow, wide = FakeSession(), FakeSession()
    sessions = GraphSessions({4: wide, 1: narrow}, lambda _: None)
    assert sessions.threads == [1, 4]
    rows = sessions.run([image(1), image(2)], ["a", "b"], 4)
    assert rows == [{"a": 1, "b": 2}, {"a": 2, "b": 4}]
    assert (len(narrow.batches), len(wide.batches)) == (0, 1)


def test_a_wrong_number_of_results_is_a_failed_inference():
    sessions = GraphSessions({1: FakeSession(lost=1)}, lambda _: None)
    with pytest.raises(InferenceFailed, match="number of results differs"):
        sessions.run([image(1), image(2)], ["a"], 1)


def test_sessions_that_are_not_kept_are_closed():
    sessions = GraphSessions({count: FakeSession() for count in (1, 2, 4)}, lambda _: None)
    sessions.keep([1, 4])
    assert sessions.threads == [1, 4]


def test_the_old_session_is_freed_before_a_new_one_is_opened():
    old, new = FakeSession(), FakeSession()
    gone = weakref.ref(old)

    def open_session(threads: int) -> FakeSession:
        assert gone() is None
        return new

    sessions = GraphSessions({1: old}, open_session)
    del old
    sessions.rebuild(1)
    sessions.run([image(1)], ["a"], 1)
    assert len(new.batches) == 1


def test_batches_are_refused_until_a_missing_session_can_be_opened():
    new, errors = FakeSession(), [InvalidEntry("the file is gone")]

    def open_session(threads: int) -> FakeSession:
        if errors:
            raise errors.pop()
        return new

    sessions = GraphSessions({1: FakeSession(), 2: FakeSession()}, open_session)
    with pytest.raises(InvalidEntry):
        sessions.rebuild(1)
    with pytest.raises(ModelNotReady, match="could not be reopened"):
        sessions.run([image(1)], ["a"], 1)
    assert sessions.run([image(1)], ["a"], 2) == [{"a": 1}]
    assert (sessions.threads, len(sessions.each())) == ([1, 2], 1)
    sessions.rebuild(1)
    assert sessions.run([image(1)], ["a"], 1) == [{"a": 1}]


def test_a_batch_that_comes_while_a_session_is_reopened_runs_on_the_new_one():
    new, begun, go_on = FakeSession(), threading.Event(), threading.Event()

    def open_session(threads: int) -> FakeSession:
        begun.set()
        assert go_on.wait(20)
        return new

    sessions, answers = GraphSessions({1: FakeSession()}, open_session), []
    opening = threading.Thread(target=sessions.rebuild, args=(1,))
    batch = threading.Thread(
        target=lambda: answers.extend(sessions.run([image(7)], ["a"], 1)),
    )
    opening.start()
    assert begun.wait(20)
    batch.start()
    go_on.set()
    for thread in (opening, batch):
        thread.join(20)
    assert answers == [{"a": 7}]
    assert len(new.batches) == 1


def test_a_session_reopened_after_closing_is_not_kept():
    sessions = GraphSessions({1: FakeSession()}, lambda _: (sessions.close(), FakeSession())[1])
    sessions.rebuild(1)
    assert sessions.threads == []


def test_a_graph_on_several_devices_reports_the_worst_placement():
    group = SessionGroup([FakeSession(on=on) for on in (ON_CUDA, ON_CPU, ON_CUDA)])
    assert group.placement == ON_CPU
    assert GraphSessions({1: FakeSession(on=ON_CUDA), 2: group}, id).placement == ON_CPU


def test_every_session_of_a_group_is_listed():
    sessions = [FakeSession() for _ in range(3)]
    group = SessionGroup(sessions[1:])
    listed = GraphSessions({2: group, 1: sessions[0]}, lambda _: None).each()
    assert listed == [(1, sessions[0]), (2, sessions[1]), (2, sessions[2])]


class HeldSession(FakeSession):
    """Holds its runs until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def run(self, images: list, outputs: list) -> list:
        self.begun.release()
        assert self.go_on.wait(20)
        return super().run(images, outputs)


def test_a_group_runs_each_batch_on_the_least_busy_device():
    held = [HeldSession(), HeldSession()]
    group = SessionGroup(held)
    threads = [
        threading.Thread(target=group.run, args=([image(n)], ["sum"]), daemon=True)
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for session in held * 2:
        assert session.begun.acquire(timeout=20)
    for session in held:
        session.go_on.set()
    for thread in threads:
        thread.join(20)
    assert [len(session.batches) for session in held] == [2, 2]


def test_a_device_whose_batch_failed_is_still_used():
    class Failing(FakeSession):
        def run(self, images: list, outputs: list) -> list:
            super().run(images, outputs)
            raise InferenceFailed("no")

    first, second = Failing(), Failing()
    group = SessionGroup([first, second])
    for _ in range(2):
        with pytest.raises(InferenceFailed):
            group.run([image(1)], ["sum"])
    assert (len(first.batches), len(second.batches)) == (2, 0)
