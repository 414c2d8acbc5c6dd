from service.telemetry.statistics import Statistics

STAGES = {"receive": 0.001, "decode": 0.004, "queue": 0.002, "compute": 0.02, "encode": 0.003}


def test_requests_that_succeed_are_timed_by_stage() -> None:
    statistics = Statistics()
    statistics.answered("ok", 3, STAGES)
    statistics.answered("ok", 1, {"receive": 0.001, "compute": 0.01})
    inferences = statistics.wire("colour", "1").inference_stats
    times = {
        name: (getattr(inferences, name).count, getattr(inferences, name).ns)
        for name in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
    }
    assert times == {
        "success": (2, 41_000_000),
        "fail": (0, 0),
        "queue": (2, 2_000_000),
        "compute_input": (2, 4_000_000),
        "compute_infer": (2, 30_000_000),
        "compute_output": (2, 3_000_000),
    }
    assert statistics.wire("colour", "1").inference_count == 4


def test_requests_that_fail_are_counted_by_outcome_and_predict_nothing() -> None:
    statistics = Statistics()
    statistics.answered("timeout", 0, {"receive": 0.5})
    statistics.answered("timeout", 0, {})
    statistics.answered("bad_input", 0, {})
    found = statistics.wire("colour", "1")
    assert statistics.failures == {"timeout": 2, "bad_input": 1}
    assert (found.inference_stats.fail.count, found.inference_stats.fail.ns) == (3, 500_000_000)
    assert found.inference_stats.success.count == 0
    assert (found.inference_count, found.last_inference) == (0, 0)


def test_batches_are_timed_by_their_size() -> None:
    statistics = Statistics()
    for size, seconds in ((4, 0.02), (1, 0.01), (4, 0.03)):
        statistics.executed(size, seconds)
    found = statistics.wire("colour", "1")
    batches = [
        (each.batch_size, each.compute_infer.count, each.compute_infer.ns)
        for each in found.batch_stats
    ]
    assert batches == [(1, 1, 10_000_000), (4, 2, 50_000_000)]
    assert found.execution_count == 3
