"""What NVIDIA's driver tells of the GPUs, where there is one: the door of `pynvml`."""

from collections.abc import Callable
from typing import Any

try:
    import pynvml
except ImportError:  # only the extra `gpu` installs it
    pynvml = None


class Gpu:
    """One GPU; each reading is None where the driver does not tell."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self.uuid: str = pynvml.nvmlDeviceGetUUID(handle)

    def utilization(self) -> float | None:
        """Return the share of the last moments in which something ran."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)

    def memory_used_bytes(self) -> float | None:
        """Return the memory that is taken, by whatever process."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).used)

    def memory_total_bytes(self) -> float | None:
        """Return the memory there is."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetMemoryInfo(gpu).total)

    def power_watts(self) -> float | None:
        """Return the power it takes."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000)

    def energy_joules(self) -> float | None:
        """Return the energy it took since the driver was loaded."""
        return self._read(lambda gpu: pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000)

    def _read(self, read: Callable[[Any], float]) -> float | None:
        try:
            return read(self._handle)
        except pynvml.NVMLError:
            return None


def find_gpus() -> list[Gpu]:
    """Return the GPUs that this process can see; none without the library or the driver."""
    if pynvml is None:
        return []
    try:
        pynvml.nvmlInit()
        count = pynvml.nvmlDeviceGetCount()
        return [Gpu(pynvml.nvmlDeviceGetHandleByIndex(index)) for index in range(count)]
    except pynvml.NVMLError:
        return []
