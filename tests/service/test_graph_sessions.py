"""A batch through one of several sessions."""

import threading

import numpy as np
import pytest
import structlog

from service.errors import InferenceFailed, InvalidEntry
from service.graph_sessions import GraphSessions, SessionGroup


class FakeSession:
    """Answers each image with its first value, and a second output with its double."""

    def __init__(self, lost: int = 0) -> None:
        self.lost = lost
        self.batches: list[np.ndarray] = []

    def run(self, images: list, outputs: list) -> list:
        self.batches.append(images)
        first = np.stack(images)[: len(images) - self.lost, 0, 0, 0].astype(int)
        return [first * (index + 1) for index in range(len(outputs))]


def image(value: int) -> np.ndarray:
    return np.full((2, 2, 3), value, np.uint8)


def test_each_image_gets_its_own_outputs_from_the_session_that_was_named():
    narrow, wide = FakeSession(), FakeSession()
    sessions = GraphSessions({4: wide, 1: narrow}, lambda _: None)
    assert sessions.threads == [1, 4]
    rows = sessions.run([image(1), image(2)], ["a", "b"], 4)
    assert rows == [{"a": 1, "b": 2}, {"a": 2, "b": 4}]
    assert (len(narrow.batches), len(wide.batches)) == (0, 1)


def test_another_number_of_results_is_a_failed_inference():
    sessions = GraphSessions({1: FakeSession(lost=1)}, lambda _: None)
    with pytest.raises(InferenceFailed, match="another number of results"):
        sessions.run([image(1), image(2)], ["a"], 1)


def test_sessions_that_are_of_no_use_are_closed():
    sessions = GraphSessions({count: FakeSession() for count in (1, 2, 4)}, lambda _: None)
    sessions.keep([1, 4])
    assert sessions.threads == [1, 4]


def test_a_session_is_opened_anew_and_where_that_fails_the_old_one_stays():
    old, new = FakeSession(), FakeSession()
    sessions = GraphSessions({1: old}, lambda threads: new)
    assert sessions.rebuild(1)
    sessions.run([image(1)], ["a"], 1)
    assert (len(old.batches), len(new.batches)) == (0, 1)

    def fail(threads: int) -> None:
        raise InvalidEntry("the file is gone")

    broken = GraphSessions({1: old}, fail)
    with structlog.testing.capture_logs() as lines:
        assert not broken.rebuild(1)
    assert [line["event"] for line in lines] == ["session_not_rebuilt"]
    assert broken.run([image(1)], ["a"], 1) == [{"a": 1}]


class HeldSession(FakeSession):
    """Holds its runs until it is told to go on."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()

    def run(self, images: list, outputs: list) -> list:
        self.begun.release()
        assert self.go_on.wait(20)
        return super().run(images, outputs)


def test_a_group_runs_each_batch_on_the_device_that_has_the_fewest():
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


def test_a_device_whose_batch_failed_is_used_again():
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
