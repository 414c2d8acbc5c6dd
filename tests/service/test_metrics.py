from dataclasses import dataclass

from service.events import ModelBuild, ModelIdentity
from service.metrics import PrometheusMetrics
from service.protocol import ModelState, Task

MODEL = ModelIdentity("colour", "1", Task.CLASSIFICATION)


def value(metrics: PrometheusMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_events_become_numbers() -> None:
    metrics = PrometheusMetrics()
    metrics.inference_finished(MODEL, "ok", 3, {"decode": 0.01, "compute": 0.02})
    metrics.inference_finished(MODEL, "bad_input", 0, {})
    metrics.batch_dispatched(MODEL, 7, "full")
    metrics.images_dropped(MODEL, 2, "cancelled")
    metrics.ran_out_of_memory(MODEL, 4)
    metrics.session_rebuilt(MODEL)
    metrics.http_finished("POST", "/v1/classify", 200, 0.0005)
    labels = {"model": "colour", "version": "1", "task": "classification"}
    requests = "vt_inference_requests_total"
    assert value(metrics, requests, **labels, outcome="ok") == 1
    assert value(metrics, requests, **labels, outcome="bad_input") == 1
    assert value(metrics, "vt_inference_images_total", model="colour", version="1") == 3
    stage = {"model": "colour", "stage": "compute"}
    assert value(metrics, "vt_stage_duration_seconds_sum", **stage) == 0.02
    assert value(metrics, "vt_batch_size_sum", model="colour") == 7
    assert value(metrics, "vt_batch_dispatch_total", model="colour", reason="full") == 1
    assert value(metrics, "vt_images_dropped_total", model="colour", reason="cancelled") == 2
    assert value(metrics, "vt_oom_total", model="colour") == 1
    assert value(metrics, "vt_session_rebuilds_total", model="colour") == 1
    http = {"method": "POST", "route": "/v1/classify", "status": "200"}
    assert value(metrics, "http_requests_total", **http) == 1
    assert value(metrics, "http_request_duration_seconds_bucket", le="0.001", **http) == 1


def test_a_model_is_in_one_state_at_a_time() -> None:
    metrics = PrometheusMetrics()
    metrics.model_state_changed("colour", "1", ModelState.LOADING)
    metrics.model_state_changed("colour", "1", ModelState.READY)
    states = {
        state: value(metrics, "vt_model_state", model="colour", version="1", state=state)
        for state in ("LOADING", "READY", "UNAVAILABLE")
    }
    assert states == {"LOADING": 0, "READY": 1, "UNAVAILABLE": 0}


@dataclass
class Load:
    pending: int = 3
    executing: int = 2
    oldest_wait_seconds: float = 0.5
    predicted_wait_seconds: float = 0.25


def test_a_models_load_is_read_at_each_scrape() -> None:
    metrics, load = PrometheusMetrics(), Load()
    metrics.model_loaded(MODEL, ModelBuild("fp32", "cpu", "cpu", "ab"), 0.2, load)
    assert value(metrics, "vt_queue_depth", model="colour") == 3
    assert value(metrics, "vt_inflight_batches", model="colour") == 2
    assert value(metrics, "vt_queue_oldest_seconds", model="colour") == 0.5
    assert value(metrics, "vt_predicted_wait_seconds", model="colour") == 0.25
    load.pending = 0
    assert value(metrics, "vt_queue_depth", model="colour") == 0


def test_a_model_that_hangs_is_unavailable_until_it_recovers() -> None:
    metrics = PrometheusMetrics()
    state = {"model": "colour", "version": "1", "state": "READY"}
    metrics.execution_hung(MODEL, 30.0)
    assert value(metrics, "vt_hung", model="colour") == 1
    assert value(metrics, "vt_model_state", **state) == 0
    metrics.execution_recovered(MODEL)
    assert value(metrics, "vt_hung", model="colour") == 0
    assert value(metrics, "vt_model_state", **state) == 1


def test_loads_are_counted_by_their_result() -> None:
    metrics = PrometheusMetrics()
    metrics.model_loaded(MODEL, ModelBuild("fp32", "cuda", "cpu", "ab"), 0.2, Load())
    metrics.model_refused("colour")
    for result in ("success", "failure"):
        assert value(metrics, "vt_model_loads_total", model="colour", result=result) == 1
    assert value(metrics, "vt_model_load_seconds_count", model="colour") == 1
    text, content_type = metrics.render("")
    assert b'requested="cuda"' in text
    assert content_type.startswith("text/plain")


def test_two_applications_do_not_share_their_numbers() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.images_dropped(MODEL, 1, "deadline")
    labels = {"model": "colour", "reason": "deadline"}
    assert value(first, "vt_images_dropped_total", **labels) == 1
    assert value(second, "vt_images_dropped_total", **labels) is None
