"""Metrics of the GPUs, read from the driver on each scrape."""

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
        "Fraction of the last sampling period during which the GPU was running anything.",
        Gpu.utilization,
    ),
    (
        GaugeMetricFamily,
        "vt_gpu_memory_used_bytes",
        "GPU memory in use.",
        Gpu.memory_used_bytes,
    ),
    (GaugeMetricFamily, "vt_gpu_memory_total_bytes", "Total GPU memory.", Gpu.memory_total_bytes),
    (GaugeMetricFamily, "vt_gpu_power_watts", "Current power draw.", Gpu.power_watts),
    (
        CounterMetricFamily,
        "vt_gpu_energy_joules_total",
        "Total energy used since the driver was loaded.",
        Gpu.energy_joules,
    ),
)
TRITON: tuple[Row, ...] = (
    (GaugeMetricFamily, "nv_gpu_utilization", "GPU utilization, from 0 to 1.", Gpu.utilization),
    (GaugeMetricFamily, "nv_gpu_memory_used_bytes", "GPU memory in use.", Gpu.memory_used_bytes),
    (GaugeMetricFamily, "nv_gpu_memory_total_bytes", "Total GPU memory.", Gpu.memory_total_bytes),
    (GaugeMetricFamily, "nv_gpu_power_usage", "Power draw in watts.", Gpu.power_watts),
    (UnknownMetricFamily, "nv_energy_consumption", "Energy used in joules.", Gpu.energy_joules),
)


def add_gpu_metrics(
    registry: CollectorRegistry, gpus: Sequence[Gpu], *, triton_names: bool
) -> None:
    """Show the GPUs, if any; with `triton_names`, under Triton's names too."""
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
