"""Memory that a front end shares with the engine: one cell per image."""

import mmap
import threading
from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from service.images.photo import PreparedImage

_ALIGNMENT = 64


class Cell:
    """A place in the arena; it is free again when nothing refers to the object."""

    __slots__ = ("_freed", "capacity", "memory", "offset")

    def __init__(self, memory: memoryview, offset: int, freed: "deque[tuple[int, int]]") -> None:
        self.memory = memory
        self.offset = offset
        self.capacity = len(memory)
        self._freed = freed

    def __del__(self) -> None:
        """Give the place back; a garbage collection may call this anywhere, so it takes no lock."""
        self._freed.append((self.offset, _aligned(self.capacity)))


@dataclass(frozen=True)
class CellImage(PreparedImage):
    """A prepared image whose pixels are in a cell."""

    cell: Cell = field(kw_only=True)


class Cells:
    """Allocates cells; any thread may use it."""

    def __init__(self, arena: mmap.mmap) -> None:
        self._memory = memoryview(arena)
        self._lock = threading.Lock()
        self._freed: deque[tuple[int, int]] = deque()
        self._starts = [0]
        self._sizes = [len(arena)]

    def place(self, image: PreparedImage) -> PreparedImage:
        """Return an image in a cell, or as it is if no cell is free."""
        cell = self.take(image.pixels.nbytes)
        if cell is None:
            return image
        pixels = np.frombuffer(cell.memory, np.uint8).reshape(image.pixels.shape)
        np.copyto(pixels, image.pixels)
        return CellImage(**{**vars(image), "pixels": pixels}, cell=cell)

    def take(self, size: int) -> Cell | None:
        """Take the first place that is large enough; None if there is none."""
        wanted = _aligned(size)
        with self._lock:
            self._collect()
            for index, room in enumerate(self._sizes):
                if room >= wanted:
                    offset = self._starts[index]
                    self._cut(index, wanted)
                    return Cell(self._memory[offset : offset + size], offset, self._freed)
        return None

    @property
    def free_bytes(self) -> int:
        """Number of bytes that no cell uses."""
        with self._lock:
            self._collect()
            return sum(self._sizes)

    def _cut(self, index: int, size: int) -> None:
        if self._sizes[index] == size:
            del self._starts[index], self._sizes[index]
        else:
            self._starts[index] += size
            self._sizes[index] -= size

    def _collect(self) -> None:
        while self._freed:
            self._give_back(*self._freed.popleft())

    def _give_back(self, offset: int, size: int) -> None:
        """Add a free place; join it with its neighbours."""
        starts, sizes = self._starts, self._sizes
        index = bisect_left(starts, offset)
        if index < len(starts) and starts[index] == offset + size:
            size += sizes[index]
            del starts[index], sizes[index]
        if index > 0 and starts[index - 1] + sizes[index - 1] == offset:
            sizes[index - 1] += size
        else:
            starts.insert(index, offset)
            sizes.insert(index, size)


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
