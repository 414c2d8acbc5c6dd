from service.telemetry.stage_timer import StageTimer


def test_stages_are_reported_in_milliseconds_in_the_order_they_began() -> None:
    timer = StageTimer()
    timer.add("decode", 0.0123)
    timer.add("compute", 0.5)
    timer.add("decode", 0.001)
    assert timer.server_timing() == "decode;dur=13.3, compute;dur=500.0"


def test_a_stage_that_fails_is_timed() -> None:
    timer = StageTimer()
    try:
        with timer.stage("receive"):
            raise ValueError
    except ValueError:
        pass
    assert list(timer.seconds) == ["receive"]
