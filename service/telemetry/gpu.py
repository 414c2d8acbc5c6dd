"""Readings of NVIDIA's driver, if it is installed; the only module that imports `pynvml`."""

from collections.abc import Callable
from typing import Any

try:
    import pynvml
except ImportError:  # only the extra `gpu` installs it
    pynvml = None


class Gpu:
    """One GPU; a reading is None if the driver does not provide it."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.uuid: str = pynvml.nvmlDeviceGetUUID(handle)

    def utilization(self) -> float | None:
        """Return the fraction of the last sampling period during which the GPU was busy."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)

    def memory_used_bytes(self) -> float | None:
        """Return the memory in use by all processes."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used)

    def memory_total_bytes(self) -> float | None:
        """Return the total memory."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total)

    def power_watts(self) -> float | None:
        """Return the current power draw."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000)

    def energy_joules(self) -> float | None:
        """Return the energy used since the driver was loaded."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000)

    def _read(self, read: Callable[[Any], float]) -> float | None:
        try:
            return read(self._handle)
        except pynvml.NVMLError:
            return None


def find_gpus() -> list[Gpu]:
    """Return the GPUs visible to this process; none if the library or the driver is missing."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [Gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    except pynvml.NVMLError:
        return []
