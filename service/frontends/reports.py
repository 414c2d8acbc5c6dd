"""What front ends have counted, added to the metrics and statistics of the engine."""

from collections.abc import Mapping
from typing import Any

from service.batching.interface import Instance
from service.telemetry.metrics import PrometheusMetrics
from service.telemetry.metrics.increments import Increments, absorb

Json = dict[str, Any]


class Report:
    """Reads what this front end has counted, each time since the time before."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._metrics = metrics
        self._increments = Increments(metrics.registry)

    def take(self, instances: Mapping[int, Instance]) -> Json:
        """Return the report; `instances` are those that may have counted, by number."""
        inference, server = self._metrics.inference, self._metrics.server
        return {
            "increments": self._increments.take(),
            "statistics": [
                (number, each.telemetry.statistics.take()) for number, each in instances.items()
            ],
            "unavailable": inference.take_unavailable(),
            "files": server.files,
            "certificate_ends_at": server.certificate_ends_at,
        }


class Reports:
    """Adds the reports of all front ends."""

    def __init__(self, metrics: PrometheusMetrics) -> None:
        self._metrics = metrics
        self._latest: dict[int, Json] = {}

    def absorb(self, front_end: int, report: Json, instances: Mapping[int, Instance]) -> None:
        """Add a report. A file counts as reloaded if every front end has reloaded it."""
        metrics = self._metrics
        absorb(metrics.registry, report["increments"])
        for number, counts in report["statistics"]:
            if number in instances:
                instances[number].telemetry.statistics.absorb(counts)
        for name, version, count in report["unavailable"]:
            metrics.inference.add_unavailable(name, version, count)
        self._latest[front_end] = report
        for file in report["files"]:
            ok = all(each["files"].get(file, True) for each in self._latest.values())
            metrics.server.file_reloaded(file, ok=ok)
        ends = [each["certificate_ends_at"] for each in self._latest.values()]
        known = [each for each in ends if each is not None]
        if known:
            metrics.server.certificate_loaded(min(known))
