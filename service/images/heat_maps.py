"""Draw the attention of visual tokens over a photo."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from service.images.attention import Attention
from service.images.overlays import BLEND_PIXELS
from service.images.resize import Box

Levels = npt.NDArray[np.uint8]
CELL_PIXELS = 128
"""The longer side of a map in a contact sheet, if the sheet stays within its width."""
MAX_SHEET_PIXELS = 8192
GAP_PIXELS = 4
TITLE_PIXELS = 16
WEAKEST, STRONGEST = 0.35, 0.75
"""Opacity of the colours where a token's attention is 0 and where it is largest."""

_INFERNO = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)])
"""Matplotlib's colour map, at even distances."""
_COLORS = np.stack(
    [np.interp(np.linspace(0, 4, 256), range(5), channel) for channel in _INFERNO.T], axis=1
)


def heat_map(photo: Image.Image, levels: Levels, box: Box) -> Image.Image:
    """Draw one map [rows, columns] over the box of an RGB photo that it covers, in place."""
    left, top, right, bottom = pixels = _pixels(box)
    rows = max(1, BLEND_PIXELS // (right - left))
    for start in range(top, bottom, rows):
        end = min(bottom, start + rows)
        strip, cells = photo.crop((left, start, right, end)), _in_grid(start, end, pixels, levels)
        photo.paste(_heated(strip, levels, cells), (left, start))
    return photo


def contact_sheet(photo: Image.Image, modules: Mapping[str, Attention], box: Box) -> Image.Image:
    """Draw a sheet: a row of maps per module, a map per token."""
    columns = max(len(module.maps) for module in modules.values())
    width, height = _cell_size(box, columns)
    background = photo.resize((width, height), Image.Resampling.BILINEAR, box)
    row_height = TITLE_PIXELS + height + GAP_PIXELS
    size = (columns * (width + GAP_PIXELS) + GAP_PIXELS, len(modules) * row_height + GAP_PIXELS)
    sheet = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for row, (name, module) in enumerate(modules.items()):
        top = GAP_PIXELS + row * row_height
        grid = "x".join(map(str, module.maps.shape[1:]))
        draw.text((GAP_PIXELS, top), f"{name} ({grid}), tokens from 0", fill=(0, 0, 0))
        for column, levels in enumerate(module.levels()):
            whole = (0.0, 0.0, float(levels.shape[1]), float(levels.shape[0]))
            place = (GAP_PIXELS + column * (width + GAP_PIXELS), top + TITLE_PIXELS)
            sheet.paste(_heated(background, levels, whole), place)
    return sheet


def _cell_size(box: Box, columns: int) -> tuple[int, int]:
    longest = max(1, min(CELL_PIXELS, MAX_SHEET_PIXELS // columns - GAP_PIXELS))
    width, height = box.right - box.left, box.bottom - box.top
    scale = longest / max(width, height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _pixels(box: Box) -> tuple[int, int, int, int]:
    """Round a box to pixels; it keeps at least one."""
    left, top = int(box.left), int(box.top)
    return left, top, max(left + 1, round(box.right)), max(top + 1, round(box.bottom))


def _in_grid(
    top: int, bottom: int, box: tuple[int, int, int, int], levels: Levels
) -> tuple[float, float, float, float]:
    """Convert rows of pixels in a box to rows of the grid that lies over it."""
    rows, columns = levels.shape
    scale = rows / (box[3] - box[1])
    return 0.0, (top - box[1]) * scale, float(columns), (bottom - box[1]) * scale


def _heated(
    photo: Image.Image, levels: Levels, cells: tuple[float, float, float, float]
) -> Image.Image:
    """Blend the colours of a part of a map over a photo, bilinearly between the cells."""
    heat = Image.fromarray(levels).resize(photo.size, Image.Resampling.BILINEAR, cells)
    opacity = heat.point([round(255 * each) for each in np.linspace(WEAKEST, STRONGEST, 256)])
    heat.putpalette(_COLORS.round().astype(np.uint8).tobytes())
    return Image.composite(heat.convert("RGB"), photo, opacity)
