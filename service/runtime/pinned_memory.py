"""Memory from which a GPU copies by itself, where the driver allows it: the door of `cuda`."""

import importlib
import mmap
import weakref
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

_log = structlog.get_logger()


def pinned(size: int, device_id: int) -> npt.NDArray[np.uint8]:
    """Return `size` bytes of memory, locked to its place if possible; else it is as any other.

    A copy from memory that may be moved takes a detour through the driver's own.
    """
    pages = mmap.mmap(-1, size)
    memory = np.frombuffer(pages, np.uint8)
    runtime = _runtime()
    if runtime is None:
        return memory
    runtime.cudaSetDevice(device_id)
    address, flags = memory.ctypes.data, runtime.cudaHostRegisterPortable
    (error,) = runtime.cudaHostRegister(address, size, flags)
    if error == runtime.cudaError_t.cudaSuccess:
        weakref.finalize(pages, runtime.cudaHostUnregister, address).atexit = False
    else:
        _log.warning("memory_not_pinned", bytes=size, reason=error.name)
    return memory


@cache
def _runtime() -> Any:
    """Return CUDA's runtime, loaded when it is needed first; only the extra `gpu` installs it."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        _log.warning("memory_not_pinned", reason="cuda-bindings is not installed")
        return None
