"""What was counted since the last time, to be added to the metrics of another process."""

from collections.abc import Iterable
from typing import Any

from prometheus_client import Counter

from service.telemetry.metrics.histogram import Histogram
from service.telemetry.metrics.registry import Registry

Increment = tuple[str, list[str], Any]
"""The name of a metric, the values of its labels, and what was added: a number for a counter, the
counts of the buckets and the sum for a histogram."""


class Increments:
    """Reads the counters and histograms of a registry, each time since the time before."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._counted: dict[tuple[str, tuple[str, ...]], float] = {}
        self._observed: dict[tuple[str, tuple[str, ...]], tuple[list[int], float]] = {}

    def take(self) -> list[Increment]:
        """Return what was counted and observed since the last call."""
        found: list[Increment] = []
        for each in self._registry.collectors:
            if isinstance(each, Counter):
                found += self._of_counter(each)
            elif isinstance(each, Histogram):
                found += self._of_histogram(each)
        return found

    def _of_counter(self, counter: Counter) -> Iterable[Increment]:
        for family in counter.collect():
            for sample in family.samples:
                labels = tuple(sample.labels.values())
                key = (family.name, labels)
                added = sample.value - self._counted.get(key, 0.0)
                if added or key not in self._counted:
                    self._counted[key] = sample.value
                    yield family.name, list(labels), added

    def _of_histogram(self, histogram: Histogram) -> Iterable[Increment]:
        for labels, child in histogram.children.items():
            key = (histogram.name, labels)
            counts, total = self._observed.get(key, ([0] * len(child.counts), 0.0))
            if counts != child.counts:
                self._observed[key] = (child.counts.copy(), child.sum)
                added = [now - before for now, before in zip(child.counts, counts, strict=True)]
                yield histogram.name, list(labels), (added, child.sum - total)


def absorb(registry: Registry, increments: Iterable[Increment]) -> None:
    """Add what another process has counted in the same metrics."""
    own = {_name(each): each for each in registry.collectors}
    for name, labels, added in increments:
        metric = own[name]
        if isinstance(metric, Counter):
            (metric.labels(*labels) if labels else metric).inc(added)
        elif isinstance(metric, Histogram):
            child = metric.labels(*labels)
            counts, total = added
            child.counts[:] = [a + b for a, b in zip(child.counts, counts, strict=True)]
            child.sum += total


def _name(collector: object) -> str:
    if isinstance(collector, Counter):
        return next(iter(collector.describe())).name
    return collector.name if isinstance(collector, Histogram) else ""
