from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import BUILD, MODEL, VERSION, Load, value


def test_two_applications_do_not_share_their_metrics() -> None:
    first, second = PrometheusMetrics(), PrometheusMetrics()
    first.batches.images_dropped(MODEL, 1, "deadline")
    labels = {**VERSION, "reason": "deadline"}
    assert value(first, "vt_images_dropped_total", **labels) == 1
    assert value(second, "vt_images_dropped_total", **labels) is None


def test_metrics_are_rendered_in_the_format_that_the_scraper_accepts() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    text, content_type = metrics.render("")
    assert b'vt_model_info{active="cpu",model="colour"' in text
    assert content_type.startswith("text/plain")
    text, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert text.endswith(b"# EOF\n")
    assert content_type.startswith("application/openmetrics-text")


def test_counters_have_no_created_series() -> None:
    metrics = PrometheusMetrics()
    metrics.server.http_finished("GET", "/", 200, 0.1)
    assert b"_created" not in metrics.render("")[0]
