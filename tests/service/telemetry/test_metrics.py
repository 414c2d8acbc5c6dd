import gc
import weakref
from dataclasses import dataclass, replace
from typing import get_args

from service import __version__
from service.errors import Outcome
from service.schema.vocabulary import ModelState, Task
from service.telemetry.events import ModelBuild, ModelIdentity, Prediction
from service.telemetry.metrics import PrometheusMetrics

MODEL = ModelIdentity("colour", "1", Task.CLASSIFICATION)
VERSION = {"model": "colour", "version": "1"}


def value(metrics: PrometheusMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_events_become_numbers() -> None:
    metrics = PrometheusMetrics()
    metrics.inference_finished(MODEL, "ok", 3, {"decode": 0.01, "compute": 0.02})
    metrics.inference_finished(MODEL, "bad_input", 0, {})
    metrics.bodies_exchanged(MODEL, 5000, 300)
    metrics.images_predicted(MODEL, [Prediction(640 * 480, {"red": 0.75, "blue": 0.25}, 0.97)])
    metrics.batch_dispatched(MODEL, 7, "full", 8)
    metrics.images_dropped(MODEL, 2, "cancelled")
    metrics.ran_out_of_memory(MODEL, 4)
    metrics.session_rebuilt(MODEL, ModelBuild("fp32", "cpu", "cpu", "ab"))
    metrics.http_finished("POST", "/v1/classify", 200, 0.0005)
    labels = {"model": "colour", "version": "1", "task": "classification"}
    requests = "vt_inference_requests_total"
    assert value(metrics, requests, **labels, outcome="ok") == 1
    assert value(metrics, requests, **labels, outcome="bad_input") == 1
    assert value(metrics, "vt_inference_images_total", model="colour", version="1") == 3
    stage = {"model": "colour", "stage": "compute"}
    assert value(metrics, "vt_stage_duration_seconds_sum", **stage) == 0.02
    assert value(metrics, "vt_batch_size_sum", **VERSION) == 7
    assert value(metrics, "vt_batch_fill_ratio_sum", **VERSION) == 7 / 8
    assert value(metrics, "vt_request_bytes_sum", model="colour") == 5000
    assert value(metrics, "vt_response_bytes_sum", model="colour") == 300
    assert value(metrics, "vt_image_pixels_sum", model="colour") == 640 * 480
    assert value(metrics, "vt_prediction_confidence_sum", **VERSION) == 0.97
    assert value(metrics, "vt_predicted_classes_total", **VERSION, label="red") == 0.75
    assert value(metrics, "vt_predicted_classes_total", **VERSION, label="blue") == 0.25
    assert value(metrics, "vt_batch_dispatch_total", **VERSION, reason="full") == 1
    assert value(metrics, "vt_images_dropped_total", **VERSION, reason="cancelled") == 2
    assert value(metrics, "vt_oom_total", **VERSION) == 1
    assert value(metrics, "vt_session_rebuilds_total", **VERSION) == 1
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
    assert value(metrics, "vt_queue_depth", **VERSION) == 3
    assert value(metrics, "vt_inflight_batches", **VERSION) == 2
    assert value(metrics, "vt_queue_oldest_seconds", **VERSION) == 0.5
    assert value(metrics, "vt_predicted_wait_seconds", **VERSION) == 0.25
    load.pending = 0
    assert value(metrics, "vt_queue_depth", **VERSION) == 0


def test_a_model_that_hangs_is_unavailable_until_it_recovers() -> None:
    metrics = PrometheusMetrics()
    state = {"model": "colour", "version": "1", "state": "READY"}
    metrics.execution_hung(MODEL, 30.0)
    assert value(metrics, "vt_hung", **VERSION) == 1
    assert value(metrics, "vt_model_state", **state) == 0
    metrics.execution_recovered(MODEL)
    assert value(metrics, "vt_hung", **VERSION) == 0
    assert value(metrics, "vt_model_state", **state) == 1


def test_a_session_made_anew_elsewhere_shows() -> None:
    metrics, build = PrometheusMetrics(), ModelBuild("fp32", "cuda", "cuda", "ab")
    metrics.model_loaded(MODEL, build, 0.2, Load())
    metrics.session_rebuilt(MODEL, replace(build, active_provider="cpu", nodes_on_cpu=3))
    providers = {"requested": "cuda", "active": "cpu"}
    assert value(metrics, "vt_provider_requested_active", **VERSION, **providers) == 0
    assert value(metrics, "vt_nodes_on_cpu", **VERSION) == 3
    assert b'active="cuda"' not in metrics.render("")[0]


def test_a_lost_session_is_a_state_until_it_is_there_again() -> None:
    metrics = PrometheusMetrics()
    metrics.session_lost(MODEL)
    assert value(metrics, "vt_model_state", **VERSION, state="UNAVAILABLE") == 1
    metrics.session_recovered(MODEL)
    assert value(metrics, "vt_model_state", **VERSION, state="READY") == 1


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
    labels = {**VERSION, "reason": "deadline"}
    assert value(first, "vt_images_dropped_total", **labels) == 1
    assert value(second, "vt_images_dropped_total", **labels) is None


def test_a_released_version_shows_nothing_but_what_it_did() -> None:
    metrics = PrometheusMetrics()
    other = replace(MODEL, version="2")
    for model in (MODEL, other):
        metrics.model_loaded(model, ModelBuild("fp32", "cpu", "cpu", "ab"), 0.2, Load())
        metrics.model_state_changed(model.name, model.version, ModelState.READY)
        metrics.self_tested(model, 0.0, 1.0, ok=True)
        metrics.batch_dispatched(model, 7, "full", 7)
        metrics.execution_hung(model, 30.0)
    metrics.model_released("colour", "1")
    metrics.model_released("colour", "1")
    lines = metrics.render("")[0].decode().splitlines()
    of_first = {line.partition("{")[0] for line in lines if 'version="1"' in line}
    of_second = {line.partition("{")[0] for line in lines if 'version="2"' in line}
    histograms = ("vt_batch_size", "vt_batch_fill_ratio")
    counts = {f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")}
    assert of_first == counts | {
        *("vt_batch_dispatch_total", "vt_inference_requests_total", "vt_images_dropped_total"),
        *("vt_oom_total", "vt_session_rebuilds_total"),
    }
    assert of_second - of_first == {
        *("vt_hung", "vt_model_info", "vt_model_state", "vt_provider_requested_active"),
        "vt_nodes_on_cpu",
        *("vt_queue_depth", "vt_queue_oldest_seconds"),
        *("vt_predicted_wait_seconds", "vt_inflight_batches"),
        *("vt_selftest_ok", "vt_selftest_max_abs_error", "vt_selftest_agreement_ratio"),
    }


def test_what_is_read_at_each_scrape_is_held_no_longer_than_it_is_loaded() -> None:
    metrics, load = PrometheusMetrics(), Load()
    metrics.model_loaded(MODEL, ModelBuild("fp32", "cpu", "cpu", "ab"), 0.2, load)
    gone = weakref.ref(load)
    del load
    metrics.model_released("colour", "1")
    gc.collect()
    assert gone() is None


def test_a_prediction_without_classes_is_counted_by_its_pixels_alone() -> None:
    metrics = PrometheusMetrics()
    metrics.images_predicted(MODEL, [Prediction(100, {}, None)])
    assert value(metrics, "vt_image_pixels_count", model="colour") == 1
    assert value(metrics, "vt_prediction_confidence_count", **VERSION) is None


def test_how_the_server_is_is_read_at_each_scrape() -> None:
    metrics, in_flight = PrometheusMetrics(), [1, 2]
    metrics.observe_server(
        ready=lambda: len(in_flight) == 2,
        in_flight=lambda: len(in_flight),
        receiving=lambda: 10 * len(in_flight),
        memory_bytes=1 << 30,
    )
    metrics.loop_lagged(0.02)
    assert (value(metrics, "vt_ready"), value(metrics, "vt_requests_in_flight")) == (1, 2)
    assert value(metrics, "vt_requests_receiving") == 20
    in_flight.pop()
    assert (value(metrics, "vt_ready"), value(metrics, "vt_requests_in_flight")) == (0, 1)
    assert value(metrics, "vt_memory_limit_bytes") == 1 << 30
    assert value(metrics, "vt_event_loop_lag_seconds_sum") == 0.02
    assert value(metrics, "vt_build_info", version=__version__) == 1


def test_counters_that_alerts_watch_are_there_before_they_count() -> None:
    metrics = PrometheusMetrics()
    metrics.model_loaded(MODEL, ModelBuild("fp32", "cpu", "cpu", "ab"), 0.2, Load())
    for name in ("vt_oom_total", "vt_session_rebuilds_total"):
        assert value(metrics, name, **VERSION) == 0
    for outcome in get_args(Outcome):
        labels = {**VERSION, "task": "classification", "outcome": outcome}
        assert value(metrics, "vt_inference_requests_total", **labels) == 0
    assert value(metrics, "vt_model_loads_total", model="colour", result="failure") == 0


def test_a_fallback_to_another_execution_provider_shows() -> None:
    metrics = PrometheusMetrics()
    for active in ("cpu", "cuda"):
        metrics.model_loaded(MODEL, ModelBuild("fp32", "cuda", active, "ab"), 0.2, Load())
        labels = {**VERSION, "requested": "cuda", "active": active}
        assert value(metrics, "vt_provider_requested_active", **labels) == (active == "cuda")
    assert b'active="cpu"' not in metrics.render("")[0]
