import math

import pytest

from service.schema.certificate import Distribution
from service.telemetry.metrics import PrometheusMetrics
from tests.service.telemetry.samples import BUILD, MODEL, VERSION, Load, value

REFERENCE = {"token_similarity": Distribution(bounds=[0.5], shares=[0.5, 0.5])}
STATISTIC = {**VERSION, "statistic": "token_similarity"}


def test_the_statistics_of_an_image_are_observed_by_module() -> None:
    metrics = PrometheusMetrics()
    tokens = metrics.tokens.of(MODEL, {})
    tokens.observe({"token_similarity": 0.25, "attention_entropy_stride_4": 0.75})
    assert value(metrics, "vt_token_similarity_sum", **VERSION) == 0.25
    labels = VERSION | {"module": "stride_4"}
    assert value(metrics, "vt_attention_entropy_ratio_sum", **labels) == 0.75
    assert value(metrics, "vt_token_drift_score", **STATISTIC) is None


def test_a_negative_similarity_counts_as_0_so_that_the_sum_never_decreases() -> None:
    metrics = PrometheusMetrics()
    metrics.tokens.of(MODEL, {}).observe({"token_similarity": -0.25})
    assert value(metrics, "vt_token_similarity_sum", **VERSION) == 0
    assert value(metrics, "vt_token_similarity_count", **VERSION) == 1


def test_the_drift_from_the_certificate_is_shown_until_the_version_is_released() -> None:
    metrics = PrometheusMetrics()
    metrics.models.model_loaded(MODEL, BUILD, 0.2, Load())
    tokens = metrics.tokens.of(MODEL, REFERENCE)
    assert math.isnan(value(metrics, "vt_token_drift_score", **STATISTIC))
    for _ in range(200):
        tokens.observe({"token_similarity": 0.9})
    assert value(metrics, "vt_token_drift_score", **STATISTIC) > 1
    metrics.tokens.model_released(MODEL.name, MODEL.version)
    assert value(metrics, "vt_token_drift_score", **STATISTIC) is None


@pytest.mark.parametrize(
    ("bounds", "shares"),
    [([0.2, 0.4], [0.5, 0.5]), ([], [0.5, 0.5]), ([0.4, 0.2], [0.5, 0.25, 0.25])],
)
def test_a_distribution_that_contradicts_itself_is_rejected(
    bounds: list[float], shares: list[float]
) -> None:
    with pytest.raises(ValueError, match="one share more than bounds"):
        Distribution(bounds=bounds, shares=shares)
