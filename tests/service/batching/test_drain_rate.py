import pytest

from service.batching.drain_rate import DrainRate


def test_the_rate_starts_with_the_given_value():
    assert DrainRate(0.25).seconds_per_image == 0.25


def test_the_rate_follows_executions_while_images_wait():
    rate = DrainRate(1.0)
    for now in range(200):
        rate.executed(2, now * 0.5, others_wait=True)
    assert rate.seconds_per_image == pytest.approx(0.25)


def test_concurrent_executions_count_together():
    rate = DrainRate(1.0)
    for now in range(200):
        rate.executed(1, now, others_wait=True)
        rate.executed(1, now + 0.1, others_wait=True)
    assert rate.seconds_per_image == pytest.approx(0.5, rel=0.1)


def test_idle_time_does_not_count():
    rate = DrainRate(0.1)
    for now in range(0, 2000, 10):
        rate.executed(1, now, others_wait=False)
    assert rate.seconds_per_image == 0.1
