import gc
import weakref
from dataclasses import replace

from structlog.testing import capture_logs

from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import BUILD, MODEL, VERSION, Load, value


def test_batches_are_counted_by_size_fill_and_reason() -> None:
    metrics = PrometheusMetrics()
    metrics.batches.batch_dispatched(MODEL, 7, "full", 8)
    metrics.batches.batch_dispatched(MODEL, 1, "idle", 8)
    assert value(metrics, "vt_batch_size_sum", **VERSION) == 8
    assert value(metrics, "vt_batch_fill_ratio_sum", **VERSION) == 1
    assert value(metrics, "vt_batch_fill_ratio_count", **VERSION) == 2
    assert value(metrics, "vt_batch_dispatch_total", **VERSION, reason="full") == 1
    assert value(metrics, "vt_batch_dispatch_total", **VERSION, reason="idle") == 1


def test_images_that_are_never_run_are_counted_by_reason() -> None:
    metrics = PrometheusMetrics()
    metrics.batches.images_dropped(MODEL, 2, "cancelled")
    assert value(metrics, "vt_images_dropped_total", **VERSION, reason="cancelled") == 2


def test_a_batch_without_memory_is_counted_and_logged_with_the_next_limit() -> None:
    metrics = PrometheusMetrics()
    with capture_logs() as lines:
        metrics.batches.ran_out_of_memory(MODEL, 4)
    assert value(metrics, "vt_oom_total", **VERSION) == 1
    assert lines == [
        {"event": "out_of_memory", "log_level": "warning", **VERSION, "max_batch_size": 4}
    ]


def test_the_load_of_a_version_is_read_on_each_scrape() -> None:
    metrics, load = PrometheusMetrics(), Load()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, load)
    assert value(metrics, "vt_queue_depth", **VERSION) == 3
    assert value(metrics, "vt_inflight_batches", **VERSION) == 2
    assert value(metrics, "vt_queue_oldest_seconds", **VERSION) == 0.5
    assert value(metrics, "vt_predicted_wait_seconds", **VERSION) == 0.25
    load.pending = 0
    assert value(metrics, "vt_queue_depth", **VERSION) == 0


def test_a_released_version_is_not_kept_in_memory() -> None:
    metrics, load = PrometheusMetrics(), Load()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, load)
    gone = weakref.ref(load)
    del load
    metrics.models.model_released("colour", "1")
    gc.collect()
    assert gone() is None


def test_a_model_that_hangs_is_unavailable_until_it_recovers() -> None:
    metrics = PrometheusMetrics()
    metrics.batches.execution_hung(MODEL, 30.0)
    assert value(metrics, "vt_hung", **VERSION) == 1
    assert value(metrics, "vt_model_state", **VERSION, state="READY") == 0
    metrics.batches.execution_recovered(MODEL)
    assert value(metrics, "vt_hung", **VERSION) == 0
    assert value(metrics, "vt_model_state", **VERSION, state="READY") == 1


def test_a_model_with_a_lost_session_is_unavailable_until_it_is_open_again() -> None:
    metrics = PrometheusMetrics()
    metrics.batches.session_lost(MODEL)
    assert value(metrics, "vt_model_state", **VERSION, state="UNAVAILABLE") == 1
    metrics.batches.session_recovered(MODEL)
    assert value(metrics, "vt_model_state", **VERSION, state="READY") == 1


def test_a_session_that_is_reopened_on_another_provider_shows() -> None:
    metrics, build = PrometheusMetrics(), replace(BUILD, requested_provider="cuda")
    metrics.models.model_loaded(MODEL, replace(build, active_provider="cuda"), 0.2, Load())
    metrics.batches.session_rebuilt(MODEL, replace(build, nodes_on_cpu=3))
    providers = {"requested": "cuda", "active": "cpu"}
    assert value(metrics, "vt_session_rebuilds_total", **VERSION) == 1
    assert value(metrics, "vt_provider_requested_active", **VERSION, **providers) == 0
    assert value(metrics, "vt_nodes_on_cpu", **VERSION) == 3
    assert b'active="cuda"' not in metrics.render("")[0]


def test_counters_that_alerts_watch_show_before_they_count() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    assert value(metrics, "vt_oom_total", **VERSION) == 0
    assert value(metrics, "vt_session_rebuilds_total", **VERSION) == 0
    for reason in ("cancelled", "deadline"):
        assert value(metrics, "vt_images_dropped_total", **VERSION, reason=reason) == 0
