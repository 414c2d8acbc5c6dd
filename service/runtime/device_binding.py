"""A batch on a GPU: put together where it can be copied from, copied, run, copied back."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]


def padded(count: int) -> int:
    """Return how many images a batch of so many is run as: the next power of two.

    The first run of a shape takes long (cuDNN plans each convolution anew, TensorRT builds an
    engine): of few batch sizes each can run before the model is ready.
    """
    return 1 << (count - 1).bit_length()


class DeviceBinding:
    """Runs a session of one input by ONNX Runtime's IO binding; by several threads at once.

    A batch is copied to the device before it runs, and its outputs after, so that the copies of
    one thread go on while the batch of another runs. `device_type` is ONNX Runtime's word.
    """

    def __init__(
        self, session: Any, device_type: str, device_id: int, allocate: Callable[[int], Bytes]
    ) -> None:
        self._session = session
        self._input = session.get_inputs()[0].name
        self._device = device_type, device_id
        self._staging = Staging(allocate)

    def run(self, images: Sequence[Array], outputs: Sequence[str]) -> list[Array]:
        """Return the outputs that are named, of all images; these are of one shape and type.

        The batch is filled up with blank images, whose outputs are left out.
        """
        binding = self._session.io_binding()
        with self._staging.stack(images) as batch:
            binding.bind_cpu_input(self._input, batch)  # copied here, not by the run
            for name in outputs:
                binding.bind_output(name, *self._device)
            self._session.run_with_iobinding(binding)
        return [result[: len(images)] for result in binding.copy_outputs_to_cpu()]


class Staging:
    """Memory in which batches are put together: as many buffers as were ever needed at once."""

    def __init__(self, allocate: Callable[[int], Bytes]) -> None:
        self._allocate = allocate
        self._free: list[Bytes] = []
        self._lock = threading.Lock()

    @contextmanager
    def stack(self, images: Sequence[Array]) -> Iterator[Array]:
        """Lend a buffer with the images in it, as one array, padded; it must not be kept."""
        first, count = images[0], padded(len(images))
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
        """Take a buffer that is large enough; one that is not gives way to a new one."""
        with self._lock:
            buffer = self._free.pop() if self._free else None
        return buffer if buffer is not None and len(buffer) >= size else self._allocate(size)
