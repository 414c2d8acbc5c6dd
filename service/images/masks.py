"""Turn label maps into areas and masks."""

import io
import zlib
from collections.abc import Collection, Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import InferenceFailed
from service.schema.predictions import ClassArea

Labels = npt.NDArray[np.uint8]
Palette = Sequence[tuple[int, int, int]]
OTHER = 255
"""The pixel value of classes that are not wanted, as label maps of data sets mark void."""
PNG_OPTIONS = {"compress_level": 1, "compress_type": zlib.Z_RLE}
"""Measured in `docs/performance.md`: the default level takes twice as long."""


def scale_labels(labels: Labels, width: int, height: int) -> Labels:
    """Scale a label map to the photo's size with nearest-neighbour sampling."""
    if labels.shape == (height, width):
        return labels
    image = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


def only_classes(labels: Labels, wanted: Collection[int]) -> Labels:
    """Return a label map in which every class that is not wanted is `OTHER`."""
    table = [index if index in wanted else OTHER for index in range(256)]
    return np.asarray(Image.fromarray(labels).point(table))


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
    return _png(indexed(labels, palette))


def grey_png(values: Labels) -> bytes:
    """Encode values, such as labels, as an 8-bit greyscale PNG."""
    return _png(Image.fromarray(values))


def indexed(labels: Labels, palette: Palette) -> Image.Image:
    """Return labels as an image whose colours are the palette's."""
    image = Image.fromarray(labels)
    # With a short palette, Pillow would write fewer than 8 bits per pixel.
    image.putpalette(bytes(np.asarray(palette, np.uint8)).ljust(256 * 3, b"\0"))
    return image


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **PNG_OPTIONS)
    return file.getvalue()
