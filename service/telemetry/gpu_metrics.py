"""The GPUs' numbers, read from the driver at each scrape."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UnknownMetricFamily,
)
from prometheus_client.registry import Collector

from service.telemetry.gpu import Gpu

Family = type[GaugeMetricFamily] | type[CounterMetricFamily] | type[UnknownMetricFamily]
Row = tuple[Family, str, str, Callable[[Gpu], float | None]]

OWN: tuple[Row, ...] = (
    (
        GaugeMetricFamily,
        "vt_gpu_utilization_ratio",
        "Share of the last moments in which the GPU worked.",
        Gpu.utilization,
    ),
    (
        GaugeMetricFamily,
        "vt_gpu_memory_used_bytes",
        "Memory taken, by whatever process.",
        Gpu.memory_used_bytes,
    ),
    (GaugeMetricFamily, "vt_gpu_memory_total_bytes", "Memory there is.", Gpu.memory_total_bytes),
    (GaugeMetricFamily, "vt_gpu_power_watts", "Power taken.", Gpu.power_watts),
    (
        CounterMetricFamily,
        "vt_gpu_energy_joules_total",
        "Energy taken since the driver was loaded.",
        Gpu.energy_joules,
    ),
)
TRITON: tuple[Row, ...] = (
    (GaugeMetricFamily, "nv_gpu_utilization", "Utilization, 0 to 1.", Gpu.utilization),
    (GaugeMetricFamily, "nv_gpu_memory_used_bytes", "Memory taken.", Gpu.memory_used_bytes),
    (GaugeMetricFamily, "nv_gpu_memory_total_bytes", "Memory there is.", Gpu.memory_total_bytes),
    (GaugeMetricFamily, "nv_gpu_power_usage", "Power taken, in watts.", Gpu.power_watts),
    (UnknownMetricFamily, "nv_energy_consumption", "Energy taken, in joules.", Gpu.energy_joules),
)


def add_gpu_metrics(
    registry: CollectorRegistry, gpus: Sequence[Gpu], *, triton_names: bool
) -> None:
    """Show the GPUs, where there are any, if asked for under Triton's names too."""
    if gpus:
        registry.register(_Gpus(gpus, OWN, "gpu"))
    if gpus and triton_names:
        registry.register(_Gpus(gpus, TRITON, "gpu_uuid"))


class _Gpus(Collector):
    def __init__(self, gpus: Sequence[Gpu], rows: Sequence[Row], label: str) -> None:
        self._gpus = gpus
        self._rows = rows
        self._label = label

    def collect(self) -> Iterator[Metric]:
        for family_of, name, text, read in self._rows:
            family = family_of(name, text, labels=(self._label,))
            for gpu in self._gpus:
                value = read(gpu)
                if value is not None:
                    family.add_metric((gpu.uuid,), value)
            yield family
