from typing import get_args

from service.errors import Outcome
from service.schema.vocabulary import Task
from service.telemetry.events import Prediction
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.timings import Timings
from tests.service.telemetry.samples import BUILD, MODEL, VERSION, Load, value

REQUESTS = {**VERSION, "task": "classification"}
TIMINGS = Timings(receive=0.001, decode=0.004, queue=0.002, compute=0.02, encode=0.003)
RED = Prediction(640 * 480, {"red": 0.75, "blue": 0.25}, 0.97)


def test_a_request_is_counted_with_its_images_its_time_and_its_bodies() -> None:
    metrics = PrometheusMetrics()
    metrics.inference.of(MODEL).finished(
        "ok", TIMINGS, 3, request_bytes=5000, response_bytes=300, predictions=[RED]
    )
    assert value(metrics, "vt_inference_requests_total", **REQUESTS, outcome="ok") == 1
    assert value(metrics, "vt_inference_images_total", **VERSION) == 3
    stages = {
        stage: value(metrics, "vt_stage_duration_seconds_sum", model="colour", stage=stage)
        for stage in ("receive", "decode", "queue", "compute", "encode")
    }
    assert stages == {
        "receive": 0.001,
        "decode": 0.004,
        "queue": 0.002,
        "compute": 0.02,
        "encode": 0.003,
    }
    assert value(metrics, "vt_request_bytes_sum", model="colour") == 5000
    assert value(metrics, "vt_response_bytes_sum", model="colour") == 300
    assert value(metrics, "vt_image_pixels_sum", model="colour") == 640 * 480
    assert value(metrics, "vt_prediction_confidence_sum", **VERSION) == 0.97
    assert value(metrics, "vt_predicted_classes_total", **VERSION, label="red") == 0.75
    assert value(metrics, "vt_predicted_classes_total", **VERSION, label="blue") == 0.25


def test_a_request_is_counted_in_the_protocols_statistics_too() -> None:
    telemetry = PrometheusMetrics().inference.of(MODEL)
    telemetry.finished("ok", TIMINGS, 3)
    telemetry.finished("rejected_full", Timings())
    statistics = telemetry.statistics.wire("colour", "1")
    assert statistics.inference_count == 3
    assert statistics.inference_stats.success.count == 1
    assert statistics.inference_stats.success.ns == 30_000_000
    assert statistics.inference_stats.fail.count == 1
    assert telemetry.statistics.failures == {"rejected_full": 1}


def test_a_request_that_fails_has_an_outcome_and_a_time_but_no_body() -> None:
    metrics = PrometheusMetrics()
    telemetry = metrics.inference.of(MODEL)
    telemetry.finished("timeout", Timings(receive=0.5), request_bytes=5000, predictions=[RED])
    assert value(metrics, "vt_inference_requests_total", **REQUESTS, outcome="timeout") == 1
    assert value(metrics, "vt_inference_images_total", **VERSION) == 0
    stage = "vt_stage_duration_seconds_count"
    assert value(metrics, stage, model="colour", stage="receive") == 1
    assert value(metrics, stage, model="colour", stage="compute") is None
    assert value(metrics, "vt_request_bytes_count", model="colour") is None
    assert value(metrics, "vt_response_bytes_count", model="colour") is None
    assert value(metrics, "vt_image_pixels_count", model="colour") is None


def test_a_version_that_is_loaded_again_counts_on_with_new_statistics() -> None:
    metrics = PrometheusMetrics()
    for _ in range(2):
        telemetry = metrics.inference.of(MODEL)
        telemetry.finished("ok", TIMINGS, 1)
        assert telemetry.statistics.wire("colour", "1").inference_count == 1
    assert value(metrics, "vt_inference_images_total", **VERSION) == 2


def test_a_prediction_without_classes_is_counted_by_its_pixels_alone() -> None:
    metrics = PrometheusMetrics()
    metrics.inference.of(MODEL).predicted([Prediction(100, {}, None)])
    assert value(metrics, "vt_image_pixels_count", model="colour") == 1
    assert value(metrics, "vt_prediction_confidence_count", **VERSION) is None


def test_a_call_without_a_response_body_observes_no_sizes() -> None:
    metrics = PrometheusMetrics()
    metrics.inference.of(MODEL).finished("ok", TIMINGS, 1, predictions=[RED])
    assert value(metrics, "vt_inference_images_total", **VERSION) == 1
    assert value(metrics, "vt_image_pixels_count", model="colour") == 1
    assert value(metrics, "vt_request_bytes_count", model="colour") is None
    assert value(metrics, "vt_response_bytes_count", model="colour") is None


def test_requests_for_an_unavailable_model_are_counted_by_model_and_version() -> None:
    metrics = PrometheusMetrics()
    metrics.inference.inference_unavailable("colour", "1", Task.CLASSIFICATION)
    metrics.inference.inference_unavailable("broken", "", None)
    requests = "vt_inference_requests_total"
    assert value(metrics, requests, **REQUESTS, outcome="unavailable") == 1
    broken = {"model": "broken", "version": "", "task": "", "outcome": "unavailable"}
    assert value(metrics, requests, **broken) == 1
    assert metrics.inference.unavailable() == {("colour", "1"): 1, ("broken", ""): 1}


def test_requests_of_a_loaded_version_show_before_the_first() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    for outcome in get_args(Outcome):
        assert value(metrics, "vt_inference_requests_total", **REQUESTS, outcome=outcome) == 0
