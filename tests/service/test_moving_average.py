import pytest

from service.moving_average import MovingAverage, whole_seconds


def test_without_a_measurement_the_mean_is_zero() -> None:
    assert MovingAverage().seconds == 0


def test_old_measurements_fade() -> None:
    average = MovingAverage(weight=0.5)
    for seconds in [1.0] * 20 + [3.0] * 20:
        average.add(seconds)
    assert average.seconds == pytest.approx(3, abs=1e-4)


def test_whole_seconds_are_rounded_up_and_never_zero() -> None:
    assert [whole_seconds(each) for each in (0, 0.2, 1, 1.01, 32)] == [1, 1, 1, 2, 32]
