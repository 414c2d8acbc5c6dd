import numpy as np
import pytest

from service.runtime.arrays import are_adjacent, side_by_side, stacked
from service.runtime.graph_sessions import run_batch

CELLS = np.arange(6 * 12, dtype=np.uint8)


def cells(*places: int) -> list[np.ndarray]:
    """Images in cells of one piece of memory."""
    return [CELLS[12 * at : 12 * at + 12].reshape(2, 2, 3) for at in places]


def test_neighbours_are_one_array_without_a_copy() -> None:
    batch = stacked(cells(1, 2, 3))
    assert np.shares_memory(batch, CELLS)
    assert np.array_equal(batch, np.stack(cells(1, 2, 3)))


@pytest.mark.parametrize("places", [(0, 2), (2, 1), (0, 1, 1)])
def test_others_are_copied(places: tuple[int, ...]) -> None:
    batch = stacked(cells(*places))
    assert not np.shares_memory(batch, CELLS)
    assert np.array_equal(batch, np.stack(cells(*places)))


def test_images_of_their_own_are_copied_even_if_they_happen_to_be_adjacent() -> None:
    images = [each.copy() for each in cells(0, 1)]
    assert not are_adjacent(images)
    assert side_by_side(images) is None


def test_answers_stay_with_their_images_if_the_batch_runs_in_the_order_of_its_cells() -> None:
    orders = []

    class Session:
        def run(self, images: list, outputs: list) -> list:
            batch = stacked(images)
            orders.append(np.shares_memory(batch, CELLS))
            return [batch[:, 0, 0, 0] for _ in outputs]

    images = cells(3, 1, 2)
    answers = run_batch(Session(), images, ["first"])
    assert [int(each["first"]) for each in answers] == [36, 12, 24]
    assert orders == [True]
