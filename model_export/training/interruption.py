"""SIGINT and SIGTERM as a request to save and stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """The state was saved after a signal; the same command resumes."""


@dataclass
class Interruption:
    """Whether a signal has arrived."""

    requested: bool = False


@contextmanager
def interruption() -> Iterator[Interruption]:
    """Note the first signal. A second one acts as it did before."""
    state = Interruption()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number: int, _frame: FrameType | None) -> None:
        state.requested = True
        signal.signal(number, before[signal.Signals(number)])

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield state
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
