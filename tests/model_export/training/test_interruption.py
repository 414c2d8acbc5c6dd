"""The first signal is noted; a second one acts as before."""

import signal

import pytest

from model_export.training.interruption import interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted(number):
    with interruption() as state:
        assert not state.requested
        signal.raise_signal(number)
        assert state.requested


def test_a_second_signal_acts_as_before():
    with interruption() as state:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert state.requested


def test_the_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with interruption():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
