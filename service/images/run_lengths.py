"""Encode label maps as COCO compressed run lengths."""

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt

from service.images.masks import Labels
from service.schema.predictions import RleClass

Counts = npt.NDArray[np.int64]


def run_lengths(labels: Labels, names: Sequence[str], wanted: Container[int]) -> list[RleClass]:
    """Encode each wanted class in the map as COCO compressed run lengths."""
    height, width = labels.shape
    flat = labels.T.reshape(-1)  # COCO counts by column
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
        if index in wanted
        for at in (np.flatnonzero(classes == index),)
    ]


def _alternating(starts: Counts, ends: Counts, total: int) -> Counts:
    """Return the lengths of runs outside and inside a class, alternating, outside first."""
    edges = np.empty(2 * starts.size, np.int64)
    edges[0::2], edges[1::2] = starts, ends
    counts = np.diff(edges, prepend=0)
    return counts if ends[-1] == total else np.append(counts, total - ends[-1])


def compress_counts(counts: Counts) -> str:
    """Write counts in COCO's form: differences to the count two before, in 5-bit characters."""
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
