from dataclasses import replace

from service.schema.vocabulary import ModelState
from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import BUILD, MODEL, VERSION, Load, value


def test_a_model_is_in_one_state_at_a_time() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_state_changed("colour", "1", ModelState.LOADING)
    metrics.models.model_state_changed("colour", "1", ModelState.READY)
    states = {
        state: value(metrics, "vt_model_state", **VERSION, state=state)
        for state in ("LOADING", "READY", "UNAVAILABLE")
    }
    assert states == {"LOADING": 0, "READY": 1, "UNAVAILABLE": 0}


def test_loads_are_counted_by_result_and_timed() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    assert value(metrics, "vt_model_loads_total", model="colour", result="failure") == 0
    metrics.models.model_refused("colour")
    for result in ("success", "failure"):
        assert value(metrics, "vt_model_loads_total", model="colour", result=result) == 1
    assert value(metrics, "vt_model_load_seconds_sum", model="colour") == 0.2


def test_a_fallback_to_another_execution_provider_shows() -> None:
    metrics = PrometheusMetrics()
    for active in ("cpu", "cuda"):
        build = replace(BUILD, requested_provider="cuda", active_provider=active)
        metrics.models.model_loaded(MODEL, build, 0.2, Load())
        labels = {**VERSION, "requested": "cuda", "active": active}
        assert value(metrics, "vt_provider_requested_active", **labels) == (active == "cuda")
    assert b'active="cpu"' not in metrics.render("")[0]


def test_the_result_of_a_self_test_shows() -> None:
    metrics = PrometheusMetrics()
    metrics.models.self_tested(MODEL, 0.25, 0.75, ok=False)
    assert value(metrics, "vt_selftest_ok", **VERSION) == 0
    assert value(metrics, "vt_selftest_max_abs_error", **VERSION) == 0.25
    assert value(metrics, "vt_selftest_agreement_ratio", **VERSION) == 0.75


def test_a_released_version_shows_its_counts_alone() -> None:
    metrics = PrometheusMetrics()
    other = replace(MODEL, version="2")
    for model in (MODEL, other):
        metrics.models.model_loaded(model, BUILD, 0.2, Load())
        metrics.models.model_state_changed(model.name, model.version, ModelState.READY)
        metrics.models.self_tested(model, 0.0, 1.0, ok=True)
        metrics.batches.batch_dispatched(model, 7, "full", 7)
        metrics.batches.execution_hung(model, 30.0)
    metrics.models.model_released("colour", "1")
    metrics.models.model_released("colour", "1")
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
