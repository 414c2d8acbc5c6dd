"""Turn label maps into areas, masks and overlays."""

import io
from collections.abc import Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import InferenceFailed
from service.schema.predictions import ClassArea

Labels = npt.NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]
PNG_COMPRESS_LEVEL = 1  # the default level takes several times as long to save a few per cent
OVERLAY_OPACITY = 0.5
BLEND_PIXELS = 1 << 20  # other threads can run between two blends, but not during one


def scale_labels(labels: Labels, width: int, height: int) -> Labels:
    """Scale a label map to the photo's size with nearest-neighbour sampling."""
    if labels.shape == (height, width):
        return labels
    image = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


def class_areas(labels: Labels, names: Sequence[str]) -> list[ClassArea]:
    """Return the area of each class in the map, the largest first."""
    counts = Image.fromarray(labels).histogram()
    if any(counts[len(names) :]):
        raise InferenceFailed("The model returned a class that has no label.")
    areas = [
        ClassArea(label=name, index=index, pixels=pixels, fraction=round(pixels / labels.size, 6))
        for index, (name, pixels) in enumerate(zip(names, counts, strict=False))
        if pixels
    ]
    return sorted(areas, key=itemgetter("pixels"), reverse=True)


def mask_png(labels: Labels, palette: Palette) -> bytes:
    """Encode labels as an indexed 8-bit PNG whose pixel values are class indices."""
    return _png(_indexed(labels, palette))


def overlay_png(photo: Image.Image, labels: Labels, palette: Palette) -> bytes:
    """Encode the photo as a PNG with the mask's colours blended over it."""
    colors = _indexed(labels, palette).convert("RGB")
    rows = max(1, BLEND_PIXELS // photo.width)
    for top in range(0, photo.height, rows):
        strip = (0, top, photo.width, min(photo.height, top + rows))
        blended = Image.blend(photo.crop(strip), colors.crop(strip), OVERLAY_OPACITY)
        colors.paste(blended, strip[:2])
    return _png(colors)


def _indexed(labels: Labels, palette: Palette) -> Image.Image:
    image = Image.fromarray(labels)
    # With a short palette, Pillow would write fewer than 8 bits per pixel.
    image.putpalette(bytes(np.asarray(palette, np.uint8)).ljust(256 * 3, b"\0"))
    return image


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    return file.getvalue()
