"""Memory that processes share. It has no name, so it ends with the last process that uses it."""

import mmap
import os


def create_memory(name: str, size: int) -> int:
    """Return the descriptor of new memory; `name` is shown in `/proc`."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC)
    os.ftruncate(descriptor, size)
    return descriptor


def map_memory(descriptor: int) -> mmap.mmap:
    """Map all memory of a descriptor."""
    return mmap.mmap(descriptor, os.fstat(descriptor).st_size)
