"""The metrics of several processes that serve together, added up."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

START, CPU, LIMIT = "process_start_time_seconds", "process_cpu_seconds", "process_max_fds"
"""Not added: the first start, and the limit of each process. Time used by a process that has ended
stays in the sum."""


def _of(pid: int) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


class Processes(Collector):
    """Like `ProcessCollector`, for the sum of processes."""

    def __init__(self, pids: Callable[[], Sequence[int]]) -> None:
        self._pids = pids
        self._cpu_seconds: dict[int, float] = {}

    def collect(self) -> Iterator[Metric]:
        """Return the metrics; a process that has just ended has none."""
        found: dict[str, tuple[Metric, list[float]]] = {}
        for pid in self._pids():
            for metric in _of(pid).collect():
                value = metric.samples[0].value
                found.setdefault(metric.name, (metric, []))[1].append(value)
                if metric.name == CPU:
                    self._cpu_seconds[pid] = value
        for name, (metric, values) in found.items():
            total = self._total(name, values)
            sample = metric.samples[0]
            metric.samples = [sample._replace(value=total)]
            yield metric

    def _total(self, name: str, values: list[float]) -> float:
        if name == CPU:
            return sum(self._cpu_seconds.values())
        return min(values) if name in (START, LIMIT) else sum(values)
