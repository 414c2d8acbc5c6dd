"""IO binding, which is for GPUs, on the CPU's memory: the same calls, the same answers."""

import threading

import numpy as np
import onnxruntime
import pytest

from service.runtime.device_binding import DeviceBinding, Staging, padded
from service.runtime.session import Session
from tests.service.repository_fixture import SIDE, classification_graph, segmentation_graph


class Memory:
    """Hands out memory, and remembers of what size."""

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
def test_the_answers_are_those_of_a_plain_run_in_the_order_that_was_asked(
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
def test_a_batch_is_filled_up_to_a_power_of_two_with_blank_images(
    memory: Memory, count: int, size: int
) -> None:
    images = photos(count, side=2)
    staging = Staging(memory.allocate)
    with staging.stack([255 - image for image in photos(64, side=2)]):
        pass  # what was in the buffer must not be in a batch
    with staging.stack(images) as batch:
        assert len(batch) == padded(count) == size
        np.testing.assert_array_equal(batch[:count], images)
        assert not batch[count:].any()


def test_a_buffer_is_used_again_and_gives_way_to_a_larger_one(memory: Memory) -> None:
    binding = bound(classification_graph(), memory)
    for count in (2, 1, 2, 4, 3):
        binding.run(photos(count), ["logits"])
    assert memory.sizes == [count * SIDE * SIDE * 3 for count in (2, 4)]


def test_batches_at_once_have_buffers_of_their_own(memory: Memory) -> None:
    staging, images = Staging(memory.allocate), photos(2)
    with staging.stack(images[:1]) as one, staging.stack(images[1:]) as other:
        assert not np.shares_memory(one, other)
        np.testing.assert_array_equal(one[0], images[0])
        np.testing.assert_array_equal(other[0], images[1])
    with staging.stack(images[:1]), staging.stack(images[1:]):
        assert len(memory.sizes) == 2


def test_a_buffer_comes_back_from_a_batch_that_fails(memory: Memory) -> None:
    binding = bound(classification_graph(), memory)
    for _ in range(3):
        with pytest.raises(Exception, match="nvalid"):
            binding.run([np.zeros((SIDE + 1, SIDE + 1, 3), np.uint8)], ["logits"])
    assert len(memory.sizes) == 1


def test_threads_get_their_own_answers(memory: Memory) -> None:
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
        thread.join()
    assert not wrong
    assert len(memory.sizes) <= len(images)
