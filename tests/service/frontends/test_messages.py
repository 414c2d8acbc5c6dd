import numpy as np
import pytest

from service.batching.queue import Answer, Run
from service.errors import DeadlineUnreachable, InferenceFailed, PayloadTooLarge, ServiceError
from service.frontends.failures import EngineError
from service.frontends.messages import (
    MAX_INLINE_BYTES,
    Kind,
    Parser,
    answer_message,
    answers_in,
    failed_message,
    failure_in,
    json_message,
    number_in,
    number_message,
)

OUTPUTS = {
    "logits": np.arange(3, dtype=np.float32),
    "flag": np.array(True),
    "half": np.ones((1, 2, 2), np.float16),
    "none": np.zeros((0, 4), np.int64),
}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_messages_are_found_in_any_pieces_of_a_stream(size: int) -> None:
    stream = number_message(Kind.CANCEL, 7) + json_message(Kind.CALL, {"a": "é"})
    stream += number_message(Kind.SEEN, 1 << 40)
    parser, found = Parser(), []
    for start in range(0, len(stream), size):
        found += [(kind, bytes(content)) for kind, content in parser.feed(stream[start:][:size])]
    assert [kind for kind, _ in found] == [Kind.CANCEL, Kind.CALL, Kind.SEEN]
    assert number_in(memoryview(found[2][1])) == 1 << 40


def test_answers_come_back_with_their_runs_and_all_types_of_outputs() -> None:
    answers = [Answer(OUTPUTS, Run(1.5, 2.5, 3.5, 4)), Answer(OUTPUTS, Run(5, 6, 7, 8))]
    ((kind, content),) = Parser().feed(answer_message(9, answers, [None, memoryview(bytes(0))]))
    found = answers_in(content, tuple(OUTPUTS), [None, None])
    assert (kind, [each.run for each in found]) == (Kind.ANSWER, [each.run for each in answers])
    for each in found:
        for name, expected in OUTPUTS.items():
            assert (each.outputs[name].dtype, each.outputs[name].shape) == (
                expected.dtype,
                expected.shape,
            )
            assert np.array_equal(each.outputs[name], expected)


def test_large_outputs_go_into_the_cell_as_far_as_they_fit() -> None:
    large = np.arange(MAX_INLINE_BYTES + 1, dtype=np.uint8)
    outputs = {"a": large, "b": large * 2, "small": large[:5]}
    cell = memoryview(bytearray(len(large) + 10))
    message = answer_message(1, [Answer(outputs, Run(0, 0, 0, 1))], [cell])
    assert len(message) < 2 * len(large)  # `a` is in the cell, and `b` does not fit
    ((_, content),) = Parser().feed(message)
    (found,) = answers_in(content, tuple(outputs), [cell])
    cell[:] = bytes(len(cell))  # another image gets the cell
    assert all(np.array_equal(found.outputs[name], each) for name, each in outputs.items())


@pytest.mark.parametrize(
    "error", [DeadlineUnreachable("late", 7.2), PayloadTooLarge.images(3), InferenceFailed("x")]
)
def test_an_error_is_raised_as_it_was(error: ServiceError) -> None:
    ((_, content),) = Parser().feed(failed_message(5, error))
    number, found = failure_in(content)
    assert (number, type(found), str(found)) == (5, type(error), str(error))
    assert getattr(found, "retry_after_seconds", None) == getattr(
        error, "retry_after_seconds", None
    )


def test_the_cause_of_an_error_comes_along_for_the_log() -> None:
    error = InferenceFailed("The model could not be run on this input.")
    error.__cause__ = ZeroDivisionError("the cause")
    ((_, content),) = Parser().feed(failed_message(5, error))
    cause = failure_in(content)[1].__cause__
    assert isinstance(cause, EngineError)
    assert "ZeroDivisionError: the cause" in str(cause)
