from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import VERSION, value


def test_the_agreement_of_a_shadow_is_observed_per_image() -> None:
    metrics = PrometheusMetrics()
    metrics.shadow.shadow_compared("colour", "1", 1.0)
    metrics.shadow.shadow_compared("colour", "1", 0.5)
    assert value(metrics, "vt_shadow_agreement_ratio_sum", **VERSION) == 1.5
    assert value(metrics, "vt_shadow_agreement_ratio_bucket", **VERSION, le="0.5") == 1


def test_images_that_are_not_compared_are_counted_by_reason() -> None:
    metrics = PrometheusMetrics()
    metrics.shadow.shadow_dropped("colour", "1", 3, "busy")
    assert value(metrics, "vt_shadow_dropped_total", **VERSION, reason="busy") == 3
