import signal
from collections.abc import Iterator

import pytest

HANG_SECONDS = 600


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """Fail a test that hangs instead of waiting for ever."""

    def fail(*_: object) -> None:
        pytest.fail(f"the test did not end within {HANG_SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(HANG_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
