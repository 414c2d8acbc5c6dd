from service.moving_average import MovingAverage


def test_without_a_measurement_a_second_is_promised() -> None:
    assert MovingAverage().retry_after_seconds(1000) == 1


def test_the_promise_grows_with_what_waits() -> None:
    average = MovingAverage()
    average.add(0.5)
    assert [average.retry_after_seconds(n) for n in (0, 1, 2, 3, 64)] == [1, 1, 1, 2, 32]


def test_old_measurements_fade() -> None:
    average = MovingAverage(weight=0.5)
    for _ in range(20):
        average.add(1.0)
    for _ in range(20):
        average.add(3.0)
    assert average.retry_after_seconds(10) == 30
