import pytest

from service.errors import QueueFull


@pytest.mark.parametrize(
    ("wait_seconds", "retry_after"), [(0, 1), (0.2, 1), (1, 1), (1.01, 2), (32, 32)]
)
def test_retry_after_is_in_whole_seconds_rounded_up_and_never_zero(
    wait_seconds: float, retry_after: int
) -> None:
    assert QueueFull("Full.", wait_seconds).retry_after_seconds == retry_after
