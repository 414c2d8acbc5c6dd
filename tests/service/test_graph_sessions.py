"""A batch through one of several sessions."""

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

    def run(self, inputs: dict, outputs: list) -> list:
        images = inputs["images"]
        self.batches.append(images)
        first = images[: len(images) - self.lost, 0, 0, 0].astype(int)
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


def test_a_single_image_is_not_copied():
    session = FakeSession()
    alone = image(7)
    GraphSessions({1: session}, lambda _: None).run([alone], ["a"], 1)
    assert np.shares_memory(session.batches[0], alone)


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


def test_a_group_runs_each_batch_on_a_session_that_is_free():
    first, second = FakeSession(), FakeSession()
    group = SessionGroup([first, second])
    held = group._free.get()
    GraphSessions({1: group}, lambda _: None).run([image(1)], ["sum"], 1)
    assert (len(first.batches), len(second.batches)) == ((0, 1) if held is first else (1, 0))
    group._free.put(held)
    assert group._free.qsize() == 2
