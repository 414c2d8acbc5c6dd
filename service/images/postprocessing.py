"""From the graph's outputs to answers: logits to top-k, labels to areas, masks and overlays."""

import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import InferenceFailed
from service.schema.protocol import ClassArea, ClassScore, RleClass

Labels = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Palette = Sequence[tuple[int, int, int]]

PNG_COMPRESS_LEVEL = 1  # the default level takes several times as long for a few per cent
OVERLAY_OPACITY = 0.5
BLEND_PIXELS = 1 << 20  # other threads run between two blends, not during one


def top_classes(
    logits: npt.NDArray[np.generic], labels: Sequence[str], top_k: int
) -> list[ClassScore]:
    """Return the `top_k` likeliest classes of logits [classes]; equal scores by index.

    The scores are the softmax over all classes.
    """
    values = logits.astype(np.float64)
    if not np.isfinite(values).all():
        raise InferenceFailed("The model returned a score that is not a number.")
    exponents = np.exp(values - values.max())
    total = float(exponents.sum())
    best = np.argsort(-values, kind="stable")[:top_k].tolist()
    return [
        ClassScore(
            label=labels[index], index=index, score=round(float(exponents[index]) / total, 6)
        )
        for index in best
    ]


def scale_labels(labels: Labels, width: int, height: int) -> Labels:
    """Scale a label map to the photo's size by the nearest neighbour."""
    if labels.shape == (height, width):
        return labels
    image = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image)


def class_areas(labels: Labels, names: Sequence[str]) -> list[ClassArea]:
    """Return the classes that are there, the largest first."""
    counts = Image.fromarray(labels).histogram()
    if any(counts[len(names) :]):
        raise InferenceFailed("The model returned a class that has no label.")
    areas = [
        ClassArea(label=name, index=index, pixels=pixels, fraction=round(pixels / labels.size, 6))
        for index, (name, pixels) in enumerate(zip(names, counts, strict=False))
        if pixels
    ]
    return sorted(areas, key=lambda area: -area.pixels)


def mask_png(labels: Labels, palette: Palette) -> bytes:
    """Encode labels as an indexed PNG of 8 bits: the pixel values are the classes."""
    return _png(_indexed(labels, palette))


def overlay_png(photo: Image.Image, labels: Labels, palette: Palette) -> bytes:
    """Encode the photo with the mask's colours blended over it."""
    colors = _indexed(labels, palette).convert("RGB")
    rows = max(1, BLEND_PIXELS // photo.width)
    for top in range(0, photo.height, rows):
        strip = (0, top, photo.width, min(photo.height, top + rows))
        blended = Image.blend(photo.crop(strip), colors.crop(strip), OVERLAY_OPACITY)
        colors.paste(blended, strip[:2])
    return _png(colors)


def _indexed(labels: Labels, palette: Palette) -> Image.Image:
    image = Image.fromarray(labels)
    # Pillow writes fewer bits a pixel where the palette is short.
    image.putpalette(bytes(np.asarray(palette, np.uint8)).ljust(256 * 3, b"\0"))
    return image


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=PNG_COMPRESS_LEVEL)
    return file.getvalue()


def run_lengths(labels: Labels, names: Sequence[str]) -> list[RleClass]:
    """Encode each class that is there as COCO compressed run lengths, in one pass over the map."""
    height, width = labels.shape
    flat = labels.T.reshape(-1)  # COCO counts down the columns
    starts = np.concatenate(([0], np.flatnonzero(flat[1:] != flat[:-1]) + 1))
    ends = np.append(starts[1:], flat.size)
    classes = flat[starts]
    return [
        RleClass(
            index=index,
            label=names[index],
            size=(height, width),
            counts=compress_counts(_alternating(starts[at], ends[at], flat.size)),
        )
        for index in np.unique(classes).tolist()
        for at in (np.flatnonzero(classes == index),)
    ]


def _alternating(starts: Counts, ends: Counts, total: int) -> Counts:
    """Return the lengths of runs outside and inside a class, in turns, outside first."""
    edges = np.empty(2 * starts.size, np.int64)
    edges[0::2], edges[1::2] = starts, ends
    counts = np.diff(edges, prepend=0)
    return counts if ends[-1] == total else np.append(counts, total - ends[-1])


def compress_counts(counts: Counts) -> str:
    """Write counts as COCO does: the difference to the count two before, in 5-bit characters."""
    rest = counts.copy()
    rest[3:] -= counts[1:-2]
    characters, wanted = [], []
    more = np.ones(rest.shape, bool)
    while more.any():
        wanted.append(more)
        low = rest & 0x1F
        rest = rest >> 5
        more = more & (rest != np.where(low & 0x10, -1, 0))
        characters.append(low + 0x20 * more + 48)
    table = np.stack(characters, axis=1).astype(np.uint8)
    text: str = table[np.stack(wanted, axis=1)].tobytes().decode("ascii")
    return text
