import mmap

import numpy as np
import pytest

from service.frontends.cells import Cell, CellImage, Cells
from service.images.photo import PreparedImage

PAGES = 4096


@pytest.fixture
def cells() -> Cells:
    return Cells(mmap.mmap(-1, PAGES))


def take(cells: Cells, size: int) -> Cell:
    cell = cells.take(size)
    assert cell is not None
    return cell


def test_cells_lie_side_by_side_and_the_first_free_place_is_used_first(cells: Cells) -> None:
    first, second, third = (take(cells, 64) for _ in range(3))
    assert [each.offset for each in (first, second, third)] == [0, 64, 128]
    del first
    assert take(cells, 64).offset == 0


def test_a_place_is_free_again_when_nothing_refers_to_its_cell(cells: Cells) -> None:
    held = [take(cells, size) for size in (64, 100, 1000, 64)]
    assert cells.free_bytes < PAGES
    for index in (2, 0, 1, 3):
        held[index] = None
    assert cells.free_bytes == PAGES
    assert take(cells, PAGES).offset == 0  # the places have been joined


def test_without_room_there_is_no_cell(cells: Cells) -> None:
    assert cells.take(PAGES + 1) is None
    held = take(cells, PAGES - 64)
    assert cells.take(65) is None
    assert take(cells, 64).offset == held.capacity


def test_an_image_is_placed_in_a_cell_or_stays_where_it_is(cells: Cells) -> None:
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    image = cells.place(PreparedImage(pixels, 20, 10, "a warning"))
    assert isinstance(image, CellImage)
    assert (image.photo_width, image.photo_height, image.warning) == (20, 10, "a warning")
    assert bytes(image.cell.memory) == pixels.tobytes()
    large = PreparedImage(np.zeros((64, 64, 3), np.uint8), 1, 1)
    assert cells.place(large) is large
