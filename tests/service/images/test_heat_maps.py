"""Maps lie over the part of the photo that they describe."""

import numpy as np
import pytest
from PIL import Image

from service.images import heat_maps
from service.images.attention import Attention, attention
from service.images.heat_maps import contact_sheet, heat_map
from service.images.resize import Box
from tests.service.photos import noise, solid

GREY = (128, 128, 128)
ONE_CELL = np.array([[0, 0, 0, 0], [0, 0, 255, 0]], np.uint8)


def pixels_of(image: Image.Image) -> np.ndarray:
    assert image.mode == "RGB"
    return np.asarray(image)


def module(tokens: int, rows: int = 2, columns: int = 2) -> Attention:
    return attention(np.full((tokens, rows, columns), 1.0, np.float32))


def test_a_heat_map_has_the_photos_size_and_is_brightest_where_the_token_looks() -> None:
    pixels = pixels_of(heat_map(solid(GREY, (80, 40)), ONE_CELL, Box(0, 0, 80, 40)))
    assert pixels.shape == (40, 80, 3)
    brightness = pixels.sum(axis=2, dtype=int)
    row, column = np.unravel_index(brightness.argmax(), brightness.shape)
    assert (row // 20, column // 20) == (1, 2)
    assert brightness[30, 50] > 2 * brightness[5, 5]


def test_the_rest_of_the_photo_stays_as_it_is() -> None:
    photo = noise(60, 40)
    pixels = pixels_of(heat_map(photo.copy(), ONE_CELL, Box(10.0, 0.0, 50.0, 40.0)))
    changed = (pixels != np.asarray(photo)).any(axis=2)
    assert not changed[:, :10].any()
    assert not changed[:, 50:].any()
    assert changed[:, 10:50].mean() > 0.9


def test_strips_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, levels = noise(50, 64), np.asarray(noise(7, 9))[..., 0]
    box = Box(3.4, 1.7, 46.2, 60.9)
    whole = pixels_of(heat_map(photo.copy(), levels, box))
    monkeypatch.setattr(heat_maps, "BLEND_PIXELS", 150)
    strips = pixels_of(heat_map(photo.copy(), levels, box))
    assert np.abs(whole.astype(int) - strips).max() <= 4


def test_a_box_smaller_than_a_pixel_is_drawn() -> None:
    assert pixels_of(heat_map(solid(GREY, (9, 1)), ONE_CELL, Box(4.2, 0, 4.4, 1))).shape == (
        1,
        9,
        3,
    )


def test_a_sheet_has_a_row_per_module_and_a_column_per_token() -> None:
    photo, box = solid(GREY, (200, 100)), Box(0, 0, 200, 100)
    one = pixels_of(contact_sheet(photo, {"module_1": module(3)}, box))
    two = pixels_of(contact_sheet(photo, {"module_1": module(3), "module_2": module(3)}, box))
    wide = pixels_of(contact_sheet(photo, {"module_1": module(6)}, box))
    assert one.shape[1] == two.shape[1] == 3 * (128 + 4) + 4
    assert two.shape[0] - one.shape[0] == one.shape[0] - 4 == 16 + 64 + 4
    assert wide.shape[:2] == (one.shape[0], 6 * (128 + 4) + 4)


def test_a_sheet_of_many_tokens_has_small_maps() -> None:
    sheet = pixels_of(contact_sheet(solid(GREY, (64, 64)), {"a": module(1024)}, Box(0, 0, 64, 64)))
    assert sheet.shape[1] <= 8192 + 4
