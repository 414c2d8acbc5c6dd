"""A histogram is shown as Prometheus's own library shows one."""

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from service.telemetry.metrics.histogram import Histogram

BUCKETS = (0.001, 0.5, 1.0, 10.0)
VALUES = (0.0, 0.001, 0.0011, 0.5, 1.0, 3, 10.0, 10.1, 1e9, -1.0)


@pytest.mark.parametrize("labels", [(), ("model", "stage")])
def test_a_histogram_is_rendered_like_one_of_the_library(labels: tuple[str, ...]) -> None:
    shown = []
    for kind in (prometheus_client.Histogram, Histogram):
        registry = CollectorRegistry()
        histogram = kind("vt_seconds", "Help.", labels, buckets=BUCKETS, registry=registry)
        for at, value in enumerate(VALUES):
            child = histogram.labels(f"m{at % 2}", "decode") if labels else histogram
            child.observe(value)
        shown.append(generate_latest(registry))
    assert shown[0] == shown[1]


def test_a_histogram_without_labels_is_shown_before_its_first_observation() -> None:
    registry = CollectorRegistry()
    Histogram("vt_seconds", "Help.", buckets=BUCKETS, registry=registry)
    assert registry.get_sample_value("vt_seconds_count") == 0
    assert registry.get_sample_value("vt_seconds_bucket", {"le": "+Inf"}) == 0


def test_equal_labels_are_the_same_child() -> None:
    histogram = Histogram("vt", "Help.", ("model",), buckets=BUCKETS, registry=CollectorRegistry())
    assert histogram.labels("a") is histogram.labels("a")
    assert histogram.labels("a") is not histogram.labels("b")


def test_another_number_of_labels_is_an_error() -> None:
    histogram = Histogram("vt", "Help.", ("model",), buckets=BUCKETS, registry=CollectorRegistry())
    with pytest.raises(ValueError, match="labels"):
        histogram.labels()


def test_a_name_cannot_be_registered_twice() -> None:
    registry = CollectorRegistry()
    Histogram("vt", "Help.", buckets=BUCKETS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        Histogram("vt", "Help.", buckets=BUCKETS, registry=registry)
