from service import __version__
from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import value


def test_gauges_of_the_server_are_evaluated_on_each_scrape() -> None:
    metrics, in_flight = PrometheusMetrics(), [1, 2]
    metrics.server.observe(
        ready=lambda: len(in_flight) == 2,
        in_flight=lambda: len(in_flight),
        receiving=lambda: 10 * len(in_flight),
        memory_bytes=1 << 30,
    )
    assert (value(metrics, "vt_ready"), value(metrics, "vt_requests_in_flight")) == (1, 2)
    assert value(metrics, "vt_requests_receiving") == 20
    in_flight.pop()
    assert (value(metrics, "vt_ready"), value(metrics, "vt_requests_in_flight")) == (0, 1)
    assert value(metrics, "vt_memory_limit_bytes") == 1 << 30
    assert value(metrics, "vt_build_info", version=__version__) == 1


def test_the_lag_of_the_event_loop_is_observed() -> None:
    metrics = PrometheusMetrics()
    metrics.server.loop_lagged(0.02)
    assert value(metrics, "vt_event_loop_lag_seconds_sum") == 0.02
    assert value(metrics, "vt_event_loop_lag_seconds_bucket", le="0.01") == 0
    assert value(metrics, "vt_event_loop_lag_seconds_bucket", le="0.025") == 1


def test_responses_are_counted_and_timed_by_method_route_and_status() -> None:
    metrics = PrometheusMetrics()
    metrics.server.http_finished("POST", "/v1/classify", 200, 0.0005)
    metrics.server.http_finished("POST", "/v1/classify", 200, 0.25)
    metrics.server.http_finished("POST", "/v1/classify", 429, 0.0005)
    labels = {"method": "POST", "route": "/v1/classify", "status": "200"}
    assert value(metrics, "http_requests_total", **labels) == 2
    assert value(metrics, "http_request_duration_seconds_bucket", le="0.001", **labels) == 1
    assert value(metrics, "http_request_duration_seconds_sum", **labels) == 0.2505
    assert value(metrics, "http_requests_total", **{**labels, "status": "429"}) == 1


def test_requests_with_api_keys_are_counted_by_key_and_outcome() -> None:
    metrics = PrometheusMetrics()
    metrics.server.api_key_used("ops", "admitted")
    metrics.server.api_key_used("", "unknown")
    metrics.server.api_key_used("ops", "admitted")
    requests = "vt_api_key_requests_total"
    assert value(metrics, requests, key="ops", outcome="admitted") == 2
    assert value(metrics, requests, key="", outcome="unknown") == 1


def test_dropped_connections_are_counted_by_reason() -> None:
    metrics = PrometheusMetrics()
    metrics.server.connection_dropped("idle")
    assert value(metrics, "vt_connections_dropped_total", reason="idle") == 1


def test_a_file_that_fails_to_reload_shows_until_it_is_reloaded() -> None:
    metrics = PrometheusMetrics()
    metrics.server.file_reloaded("api_keys", ok=False)
    assert value(metrics, "vt_last_reload_successful", file="api_keys") == 0
    metrics.server.file_reloaded("api_keys", ok=True)
    assert value(metrics, "vt_last_reload_successful", file="api_keys") == 1


def test_the_expiry_of_the_certificate_shows() -> None:
    metrics = PrometheusMetrics()
    metrics.server.certificate_loaded(1.8e9)
    name = "vt_tls_certificate_expiry_timestamp_seconds"
    assert value(metrics, name, file="certificate") == 1.8e9
