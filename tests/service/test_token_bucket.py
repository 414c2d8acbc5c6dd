import pytest

from service.token_bucket import TokenBucket
from tests.service.clock import Clock


def test_a_burst_is_allowed_at_once_and_then_the_rate_applies() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 3, clock)
    assert [bucket.take() for _ in range(3)] == [0, 0, 0]
    assert bucket.take() == pytest.approx(0.5)
    clock.now += 0.25
    assert bucket.take() == pytest.approx(0.25)
    clock.now += 0.25
    assert bucket.take() == 0
    assert bucket.take() > 0


def test_idle_time_saves_no_more_than_the_burst() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, 2, clock)
    clock.now += 3600
    assert [bucket.take() > 0 for _ in range(3)] == [False, False, True]


def test_a_refusal_costs_no_token() -> None:
    clock = Clock()
    bucket = TokenBucket(1.0, 1, clock)
    bucket.take()
    waits = [bucket.take() for _ in range(5)]
    assert waits == [1.0] * 5
    clock.now += 1.0
    assert bucket.take() == 0
