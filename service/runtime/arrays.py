"""Tensors: their types, and several of them as one, for modules that do not run graphs."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Outputs = Mapping[str, Array]
"""The outputs of one image, by name."""


def stacked(images: Sequence[Array]) -> Array:
    """Return images of one shape and type as one array.

    Images that lie side by side in one piece of memory are not copied.
    """
    first = images[0]
    if len(images) == 1:
        return first[None]
    if are_adjacent(images):
        shape, strides = (len(images), *first.shape), (first.nbytes, *first.strides)
        return np.lib.stride_tricks.as_strided(first, shape, strides, writeable=False)
    return np.stack(images)


def side_by_side(images: Sequence[Array]) -> list[int] | None:
    """Return the order in which images lie side by side, if that is another than theirs."""
    base = images[0].base
    if base is None or any(each.base is not base for each in images):
        return None
    order = sorted(range(len(images)), key=lambda index: _address(images[index]))
    if order == list(range(len(images))) or not are_adjacent([images[at] for at in order]):
        return None
    return order


def are_adjacent(images: Sequence[Array]) -> bool:
    """Return whether images lie side by side in one piece of memory, in their order."""
    first = images[0]
    if first.base is None or not first.flags.c_contiguous:
        return False
    start, size, base = _address(first), first.nbytes, first.base
    return all(
        each.base is base and _address(each) == start + at * size for at, each in enumerate(images)
    )


def _address(image: Array) -> int:
    address: int = image.__array_interface__["data"][0]
    return address
