"""Batches on a GPU: stacked in pinned memory, copied, run, and copied back."""

import importlib
import mmap
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import structlog

from service.runtime.arrays import Array, are_adjacent, stacked

Bytes = npt.NDArray[np.uint8]

_log = structlog.get_logger()


def padded(count: int) -> int:
    """Return the batch size to which `count` images are padded: the next power of two.

    The first run of a shape is slow (cuDNN plans each convolution, TensorRT builds an engine).
    With only a few batch sizes, all of them can run before the model is ready.
    """
    return 1 << (count - 1).bit_length()


class DeviceBinding:
    """Runs a session of one input through IO binding; several threads may use it at once.

    A batch is copied to the device before it runs, and its outputs are copied back afterwards. The
    copies of one thread overlap with the run of another. `device_type` is ONNX Runtime's name of
    the device.
    """

    def __init__(
        self, session: Any, device_type: str, device_id: int, allocate: Callable[[int], Bytes]
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._device = device_type, device_id
        self._staging = Staging(allocate)

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Return the named outputs of all images, which have one shape and type.

        The batch is padded with blank images, whose outputs are left out.
        """
        binding = self._session.io_binding()
        with self._staging.stack(images) as batch:
            binding.bind_cpu_input(self._input, batch)  # copies here, not during the run
            for name in outputs:
                binding.bind_output(name, *self._device)
            self._session.run_with_iobinding(binding)
        return [result[: len(images)] for result in binding.copy_outputs_to_cpu()]


class PageLocked(np.ndarray[Any, np.dtype[np.uint8]]):
    """Memory from which a GPU copies directly."""


class Staging:
    """Buffers for stacking batches: as many as were ever in use at once."""

    def __init__(self, allocate: Callable[[int], Bytes]) -> None:
        self._allocate = allocate
        self._free: list[Bytes] = []
        self._lock = threading.Lock()

    @contextmanager
    def stack(self, images: Sequence[Array]) -> Iterator[Array]:
        """Lend a buffer with the images as one padded array, which must not be kept."""
        first, count = images[0], padded(len(images))
        if isinstance(first.base, PageLocked) and count == len(images) and are_adjacent(images):
            yield stacked(images)  # in the cells of a front end, which are page-locked too
            return
        size = count * first.nbytes
        buffer = self._take(size)
        batch = buffer[:size].view(first.dtype).reshape(count, *first.shape)
        np.stack(images, out=batch[: len(images)])
        batch[len(images) :] = 0
        try:
            yield batch
        finally:
            with self._lock:
                self._free.append(buffer)

    def _take(self, size: int) -> Bytes:
        """Take a free buffer; replace it if it is too small."""
        with self._lock:
            buffer = self._free.pop() if self._free else None
        return buffer if buffer is not None and len(buffer) >= size else self._allocate(size)


def pinned(size: int, device_id: int) -> Bytes:
    """Return `size` bytes of page-locked memory, or of ordinary memory if the driver refuses.

    The GPU copies directly from page-locked memory; other memory is first copied by the driver.
    """
    return pin(mmap.mmap(-1, size), device_id)


def pin(pages: mmap.mmap, device_id: int) -> Bytes:
    """Lock memory in place until it is unmapped, if the driver agrees; return it."""
    memory = np.frombuffer(pages, np.uint8)
    runtime = _cuda_runtime()
    if runtime is None:
        return memory
    runtime.cudaSetDevice(device_id)
    size, flags = len(pages), runtime.cudaHostRegisterPortable
    address = memory.ctypes.data
    (error,) = runtime.cudaHostRegister(address, size, flags)
    if error == runtime.cudaError_t.cudaSuccess:
        weakref.finalize(pages, runtime.cudaHostUnregister, address).atexit = False
    else:
        _log.warning("memory_not_pinned", bytes=size, reason=error.name)
        return memory
    return memory.view(PageLocked)


@cache
def _cuda_runtime() -> Any:
    """Return CUDA's runtime, loaded on first use, or None: only the extra `gpu` installs it."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError:
        _log.warning("memory_not_pinned", reason="cuda-bindings is not installed")
        return None
