import pytest

from service.batching.moving_average import MovingAverage


def test_without_a_measurement_the_mean_is_zero() -> None:
    assert MovingAverage().seconds == 0


def test_old_measurements_fade() -> None:
    average = MovingAverage(weight=0.5)
    for seconds in [1.0] * 20 + [3.0] * 20:
        average.add(seconds)
    assert average.seconds == pytest.approx(3, abs=1e-4)
