"""The number of front ends."""

from pathlib import Path

from service.runtime.container_limits import usable_cores
from service.settings import Settings

FEW_CORES = 4
"""On a CPU of so many cores, one process does everything."""
ENGINE_CORES = 2
"""On a GPU, the engine needs its event loop and the threads that start the batches."""
MAX_FRONT_ENDS = 16
CORES_PER_FRONT_END = 8
"""On a CPU, the model needs most cores; decoding takes up to a seventh of an image's time."""
GPU_DEVICES = ("dev/nvidia0", "dev/nvidiactl")


def front_end_count(settings: Settings, cores: int | None = None, root: Path = Path("/")) -> int:
    """Return the number of front ends; 0 means that one process does everything."""
    if settings.frontends != "auto":
        return settings.frontends
    cores = cores or usable_cores()
    if _has_gpu(settings, root):
        return min(MAX_FRONT_ENDS, max(1, cores - ENGINE_CORES))
    if cores <= FEW_CORES:
        return 0
    return min(MAX_FRONT_ENDS, -(-cores // CORES_PER_FRONT_END))


def _has_gpu(settings: Settings, root: Path) -> bool:
    """Return whether models will run on a GPU, without loading its driver."""
    match settings.execution_providers:
        case "cpu":
            return False
        case "auto":
            return any((root / each).exists() for each in GPU_DEVICES)
        case _:
            return True
