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
    metrics.queue_changed(MODEL, 7)
    metrics.http_finished("POST", "/v1/classify", 200, 0.0005)
    labels = {"model": "colour", "version": "1", "task": "classification"}
    requests = "vt_inference_requests_total"
    assert value(metrics, requests, **labels, outcome="ok") == 1
    assert value(metrics, requests, **labels, outcome="bad_input") == 1
    assert value(metrics, "vt_inference_images_total", model="colour", version="1") == 3
    stage = {"model": "colour", "stage": "compute"}
    assert value(metrics, "vt_stage_duration_seconds_sum", **stage) == 0.02
    assert value(metrics, "vt_queue_depth", model="colour") == 7
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


def test_loads_are_counted_by_their_result() -> None:
    metrics = PrometheusMetrics()
    metrics.model_loaded(MODEL, ModelBuild("fp32", "cuda", "cpu", "ab"), 0.2)
    metrics.model_refused("colour")
    for result in ("success", "failure"):
        assert value(metrics, "vt_model_loads_total", model="colour", result=result) == 1
    assert value(metrics, "vt_model_load_seconds_count", model="colour") == 1
    text, content_type = metrics.render("")
    assert b'requested="cuda"' in text
    assert content_type.startswith("text/plain")


def test_two_applications_do_not_share_their_numbers() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.queue_changed(MODEL, 1)
    assert value(second, "vt_queue_depth", model="colour") is None
