"""IO binding on the CPU's memory gives the answers of a plain run; pinning needs no driver."""

import gc
import sys
import threading
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import structlog

from service.runtime import io_binding
from service.runtime.io_binding import DeviceBinding, Staging, pinned
from service.runtime.session import Session
from tests.service.repository_fixture import SIDE, classification_graph, segmentation_graph


class Memory:
    """Allocates memory and remembers the sizes."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def allocate(self, size: int) -> np.ndarray:
        self.sizes.append(size)
        return np.zeros(size, np.uint8)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def photos(count: int, side: int = SIDE) -> list[np.ndarray]:
    random = np.random.default_rng(7)
    return list(random.integers(0, 256, (count, side, side, 3), np.uint8))


def bound(graph: bytes, memory: Memory) -> DeviceBinding:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return DeviceBinding(session, "cpu", 0, memory.allocate)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    ("graph", "outputs"),
    [
        (classification_graph(), ["tokens", "logits"]),
        (classification_graph(), ["logits"]),
        (segmentation_graph(), ["labels"]),
    ],
)
def test_outputs_equal_those_of_a_plain_run_in_the_order_requested(
    memory: Memory, graph: bytes, outputs: list[str], count: int
) -> None:
    images = photos(count)
    expected = Session(graph, "cpu", 1).run(images, outputs)
    binding = bound(graph, memory)
    for _ in range(2):
        results = binding.run(images, outputs)
        assert len(results) == len(outputs)
        for result, wanted in zip(results, expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_an_answer_is_not_changed_by_the_next_batch(memory: Memory) -> None:
    binding = bound(segmentation_graph(), memory)
    first = binding.run(photos(1), ["labels"])[0]
    kept = first.copy()
    binding.run([255 - image for image in photos(1)], ["labels"])
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    ("count", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (31, 32), (32, 32), (33, 64)]
)
def test_a_batch_is_padded_to_a_power_of_two_with_blank_images(
    memory: Memory, count: int, size: int
) -> None:
    images = photos(count, side=2)
    staging = Staging(memory.allocate)
    with staging.stack([255 - image for image in photos(64, side=2)]):
        pass  # the next batch must not contain what this one left in the buffer
    with staging.stack(images) as batch:
        assert len(batch) == size
        np.testing.assert_array_equal(batch[:count], images)
        assert not batch[count:].any()


def test_a_buffer_is_reused_until_a_larger_one_replaces_it(memory: Memory) -> None:
    binding = bound(classification_graph(), memory)
    for count in (2, 1, 2, 4, 3):
        binding.run(photos(count), ["logits"])
    assert memory.sizes == [count * SIDE * SIDE * 3 for count in (2, 4)]


def test_concurrent_batches_use_separate_buffers(memory: Memory) -> None:
    staging, images = Staging(memory.allocate), photos(2)
    with staging.stack(images[:1]) as one, staging.stack(images[1:]) as other:
        assert not np.shares_memory(one, other)
        np.testing.assert_array_equal(one[0], images[0])
        np.testing.assert_array_equal(other[0], images[1])
    with staging.stack(images[:1]), staging.stack(images[1:]):
        assert len(memory.sizes) == 2


def test_a_failed_batch_returns_its_buffer(memory: Memory) -> None:
    binding = bound(classification_graph(), memory)
    for _ in range(3):
        with pytest.raises(Exception, match="nvalid"):
            binding.run([np.zeros((SIDE + 1, SIDE + 1, 3), np.uint8)], ["logits"])
    assert len(memory.sizes) == 1


def test_concurrent_threads_get_their_own_outputs(memory: Memory) -> None:
    binding, images = bound(classification_graph(), memory), photos(8)
    expected = [binding.run([image], ["logits"])[0] for image in images]
    wrong: list[int] = []

    def ask(index: int) -> None:
        answers = (binding.run([images[index]], ["logits"])[0] for _ in range(50))
        wrong.extend(index for each in answers if not np.array_equal(each, expected[index]))

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(images))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert len(memory.sizes) <= len(images)


MODULE = "cuda.bindings.runtime"
SUCCESS = SimpleNamespace(name="cudaSuccess")


class Driver:
    """CUDA's runtime on a machine with a GPU; remembers its calls."""

    def __init__(self) -> None:
        self.devices: list[int] = []
        self.locked: dict[int, int] = {}

    def register(self, address: int, size: int, flags: int) -> tuple[object]:
        assert (flags, address % 4096) == (1, 0)
        self.locked[address] = size
        return (SUCCESS,)

    def runtime(self, **others: object) -> SimpleNamespace:
        """The functions of NVIDIA's library."""
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
    monkeypatch.setattr(io_binding, "_cuda_runtime", driver.runtime)
    return driver


def test_memory_stays_locked_for_its_gpu_while_any_view_of_it_exists(driver: Driver) -> None:
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


def test_memory_that_the_driver_refuses_to_lock_is_ordinary_and_logged(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = SimpleNamespace(name="cudaErrorMemoryAllocation")
    runtime = driver.runtime(cudaHostRegister=lambda *_: (refused,))
    monkeypatch.setattr(io_binding, "_cuda_runtime", lambda: runtime)
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
    memory[:] = 1
    assert [(line["event"], line["reason"]) for line in lines] == [
        ("memory_not_pinned", "cudaErrorMemoryAllocation")
    ]


def test_without_the_cuda_library_memory_is_not_pinned_and_logged_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    io_binding._cuda_runtime.cache_clear()
    monkeypatch.setitem(sys.modules, MODULE, None)
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
        pinned(100, 0)
    io_binding._cuda_runtime.cache_clear()
    memory[:] = 1
    assert [line["event"] for line in lines] == ["memory_not_pinned"]


def test_the_cuda_library_has_the_functions_that_are_called() -> None:
    """With a GPU the memory is locked; without one the refusal is logged."""
    runtime = io_binding._cuda_runtime()
    with structlog.testing.capture_logs() as lines:
        memory = pinned(100, 0)
    memory[:] = 1
    (error,) = runtime.cudaHostUnregister(memory.ctypes.data)
    assert (error == runtime.cudaError_t.cudaSuccess) == (not lines)
