"""Memory for copies to a GPU, with a driver and without."""

import gc
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import structlog

from service.runtime import pinned_memory
from service.runtime.pinned_memory import pinned

MODULE = "cuda.bindings.runtime"
SUCCESS = SimpleNamespace(name="cudaSuccess")


class Driver:
    """What CUDA's runtime did on a machine with a GPU."""

    def __init__(self) -> None:
        self.devices: list[int] = []
        self.locked: dict[int, int] = {}

    def register(self, address: int, size: int, flags: int) -> tuple[object]:
        assert (flags, address % 4096) == (1, 0)
        self.locked[address] = size
        return (SUCCESS,)

    def runtime(self, **others: object) -> SimpleNamespace:
        """The driver by the names of NVIDIA's library."""
        functions = {
            "cudaError_t": SimpleNamespace(cudaSuccess=SUCCESS),
            "cudaHostRegisterPortable": 1,
            "cudaSetDevice": self.devices.append,
            "cudaHostRegister": self.register,
            "cudaHostUnregister": self.locked.pop,
        }
        return SimpleNamespace(**{**functions, **others})


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setattr(pinned_memory, "_runtime", driver.runtime)
    return driver


def test_memory_is_locked_for_its_gpu_until_nobody_has_it(driver: Driver) -> None:
    memory = pinned(10_000, 1)
    assert (memory.dtype, memory.shape) == (np.uint8, (10_000,))
    assert driver.devices == [1]
    assert driver.locked == {memory.ctypes.data: 10_000}
    part = memory[100:200].reshape(10, 10)
    del memory
    gc.collect()
    assert driver.locked
    part[:] = 7
    del part
    gc.collect()
    assert not driver.locked


def test_what_the_driver_refuses_is_ordinary_memory_and_logged(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SimpleNamespace(name="cudaErrorMemoryAllocation")
    runtime = driver.runtime(cudaHostRegister=lambda *_: (refused,))
    monkeypatch.setattr(pinned_memory, "_runtime", lambda: runtime)
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
    memory[:] = 1
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("memory_not_pinned", "cudaErrorMemoryAllocation")
    ]


def test_without_cudas_library_it_is_ordinary_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned_memory._runtime.cache_clear()
    monkeypatch.setitem(sys.modules, MODULE, None)
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
        pinned(100, 0)
    pinned_memory._runtime.cache_clear()
    memory[:] = 1
    assert [line["event"] for line in lines] == ["memory_not_pinned"]


def test_cudas_library_has_what_is_called_and_answers_without_a_gpu() -> None:
    """On a machine with a GPU the memory is locked; on one without, the driver says why not."""
    runtime = pinned_memory._runtime()
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
    memory[:] = 1
    (error,) = runtime.cudaHostUnregister(memory.ctypes.data)
    assert (error == runtime.cudaError_t.cudaSuccess) == (not lines)
