from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from service.telemetry import gpu
from service.telemetry.gpu import find_gpus
from service.telemetry.gpu_metrics import add_gpu_metrics


class Refused(Exception):
    """The error of the driver's library."""


def driver(**others: object) -> SimpleNamespace:
    """A driver with two GPUs, with the functions of NVIDIA's library."""
    functions = {
        "NVMLError": Refused,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetCount": lambda: 2,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: f"GPU-{handle}",
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=40 + handle),
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=3 << 30, total=80 << 30),
        "nvmlDeviceGetPowerUsage": lambda _: 125_000,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 9_500,
    }
    return SimpleNamespace(**{**functions, **others})


def refuse(*_: object) -> None:
    raise Refused


def scraped(*, triton_names: bool = False) -> CollectorRegistry:
    registry = CollectorRegistry()
    add_gpu_metrics(registry, find_gpus(), triton_names=triton_names)
    return registry


def test_each_gpu_is_read_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "pynvml", driver())
    registry = scraped()
    names = {
        "vt_gpu_utilization_ratio": 0.41,
        "vt_gpu_memory_used_bytes": 3 << 30,
        "vt_gpu_memory_total_bytes": 80 << 30,
        "vt_gpu_power_watts": 125,
        "vt_gpu_energy_joules_total": 9.5,
    }
    found = {name: registry.get_sample_value(name, {"gpu": "GPU-1"}) for name in names}
    assert found == names
    assert registry.get_sample_value("nv_gpu_utilization", {"gpu_uuid": "GPU-1"}) is None


def test_a_gpu_has_the_names_that_perf_analyzer_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "pynvml", driver())
    registry = scraped(triton_names=True)
    names = {
        "nv_gpu_utilization": 0.4,
        "nv_gpu_memory_used_bytes": 3 << 30,
        "nv_gpu_memory_total_bytes": 80 << 30,
        "nv_gpu_power_usage": 125,
        "nv_energy_consumption": 9.5,
    }
    found = {name: registry.get_sample_value(name, {"gpu_uuid": "GPU-0"}) for name in names}
    assert found == names


def test_a_reading_that_the_driver_refuses_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpu, "pynvml", driver(nvmlDeviceGetTotalEnergyConsumption=refuse))
    registry = scraped()
    assert registry.get_sample_value("vt_gpu_power_watts", {"gpu": "GPU-0"}) == 125
    assert registry.get_sample_value("vt_gpu_energy_joules_total", {"gpu": "GPU-0"}) is None


@pytest.mark.parametrize("library", [None, driver(nvmlInit=refuse)], ids=["library", "driver"])
def test_no_gpu_is_shown_without_the_library_or_the_driver(
    monkeypatch: pytest.MonkeyPatch, library: SimpleNamespace | None
) -> None:
    monkeypatch.setattr(gpu, "pynvml", library)
    assert list(scraped().collect()) == []
