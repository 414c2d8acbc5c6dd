"""Metrics of each model under Triton's names, for dashboards and autoscalers made for Triton."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from service.errors import Outcome
from service.schema.open_inference import DurationStatistic, InferenceStatistics, ModelStatistics
from service.telemetry.metrics.inference import VersionTelemetry

REASONS: dict[Outcome, str] = {
    "rejected_full": "REJECTED",
    "rejected_deadline": "REJECTED",
    "timeout": "REJECTED",
    "cancelled": "CANCELED",
    "unavailable": "BACKEND",
    "error": "BACKEND",
    "bad_input": "OTHER",
}
"""Triton's reason for each outcome of a failed request."""
VERSION = ("model", "version")

Unavailable = Callable[[], Mapping[tuple[str, str], int]]
"""Returns the number of requests for versions that were not ready, by model and version."""


class Served(Protocol):
    """A loaded model version."""

    telemetry: VersionTelemetry

    @property
    def pending(self) -> int:
        """Number of images admitted and not yet predicted."""


def add_triton_names(
    registry: CollectorRegistry,
    serving: Callable[[], Iterable[Served]],
    unavailable: Unavailable,
) -> None:
    """Report loaded versions, and requests for versions that were not ready, on each scrape."""
    registry.register(_TritonNames(serving, unavailable))


class _TritonNames(Collector):
    """Reads the statistics.

    Triton's counters lack the suffix `_total`, so they are untyped here.
    """

    def __init__(self, serving: Callable[[], Iterable[Served]], unavailable: Unavailable) -> None:
        self._serving = serving
        self._unavailable = unavailable

    def collect(self) -> Iterator[Metric]:
        statistics = [(each, each.telemetry.model_statistics()) for each in self._serving()]
        yield _failures(statistics, self._unavailable())
        yield _pending(statistics)
        for name, text, read in _COUNTERS:
            family = UnknownMetricFamily(name, text, labels=VERSION)
            for _, each in statistics:
                family.add_metric((each.name, each.version), read(each))
            yield family


def _failures(
    statistics: list[tuple[Served, ModelStatistics]], unavailable: Mapping[tuple[str, str], int]
) -> Metric:
    labels = (*VERSION, "reason")
    family = UnknownMetricFamily(
        "nv_inference_request_failure", "Number of failed requests, by reason.", labels=labels
    )
    by_version: dict[tuple[str, str], dict[str, int]] = defaultdict(
        lambda: dict.fromkeys(REASONS.values(), 0)
    )
    for served, each in statistics:
        counts = by_version[each.name, each.version]
        for outcome, count in served.telemetry.statistics.failures.items():
            counts[REASONS[outcome]] += count
    for version, count in unavailable.items():
        by_version[version][REASONS["unavailable"]] += count
    for version, counts in by_version.items():
        for reason, count in counts.items():
            family.add_metric((*version, reason), count)
    return family


def _pending(statistics: list[tuple[Served, ModelStatistics]]) -> Metric:
    family = GaugeMetricFamily(
        "nv_inference_pending_request_count",
        "Number of images, not requests, admitted and not yet predicted.",
        labels=VERSION,
    )
    for served, each in statistics:
        family.add_metric((each.name, each.version), served.pending)
    return family


def _microseconds(
    read: Callable[[InferenceStatistics], DurationStatistic],
) -> Callable[[ModelStatistics], float]:
    return lambda each: read(each.inference_stats).ns / 1000


_COUNTERS: tuple[tuple[str, str, Callable[[ModelStatistics], float]], ...] = (
    (
        "nv_inference_request_success",
        "Number of successful requests.",
        lambda each: each.inference_stats.success.count,
    ),
    ("nv_inference_count", "Number of images predicted.", lambda each: each.inference_count),
    ("nv_inference_exec_count", "Number of batches run.", lambda each: each.execution_count),
    (
        "nv_inference_request_duration_us",
        "Total time of successful requests.",
        _microseconds(lambda each: each.success),
    ),
    (
        "nv_inference_queue_duration_us",
        "Part of that time spent waiting.",
        _microseconds(lambda each: each.queue),
    ),
    (
        "nv_inference_compute_input_duration_us",
        "Part of that time spent decoding.",
        _microseconds(lambda each: each.compute_input),
    ),
    (
        "nv_inference_compute_infer_duration_us",
        "Part of that time spent running the graph.",
        _microseconds(lambda each: each.compute_infer),
    ),
    (
        "nv_inference_compute_output_duration_us",
        "Part of that time spent encoding.",
        _microseconds(lambda each: each.compute_output),
    ),
)
