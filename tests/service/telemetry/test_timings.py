import time

from service.telemetry.timings import QUEUED_FIRST, Timings


def test_only_stages_that_happened_are_reported() -> None:
    timings = Timings(decode=0.0123, compute=0.5)
    assert timings.stages() == {"decode": 0.0123, "compute": 0.5}
    assert timings.server_timing() == "decode;dur=12.3, compute;dur=500.0"


def test_a_stage_that_took_no_time_has_happened() -> None:
    assert Timings(queue=0.0).server_timing() == "queue;dur=0.0"


def test_a_request_that_was_rejected_at_once_has_no_stages() -> None:
    assert Timings().stages() == {}
    assert Timings().server_timing() == ""


def test_stages_follow_one_another_in_the_order_of_a_request() -> None:
    timings = Timings()
    timings.encode = timings.compute = timings.queue = timings.decode = timings.receive = 0.001
    assert list(timings.stages()) == ["receive", "decode", "queue", "compute", "encode"]


def test_images_that_are_decoded_with_their_batch_are_decoded_after_the_queue() -> None:
    timings = Timings(decode=0.002, queue=0.001, order=QUEUED_FIRST)
    assert list(timings.stages()) == ["queue", "decode"]
    assert timings.server_timing() == "queue;dur=1.0, decode;dur=2.0"


def test_timings_begin_when_they_are_made() -> None:
    before = time.perf_counter()
    assert before <= Timings().began <= time.perf_counter()
