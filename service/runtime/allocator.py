"""Returns freed memory to the operating system, if the C library can (glibc)."""

import ctypes

LARGE_BYTES = 4 << 20
"""Blocks of at least this size are returned when freed: those of large photos, rarely others."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Make the C library map large blocks separately, so that it returns them when freed.

    Without this glibc raises the size from which it does so, up to 32 MiB, and keeps more memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """Return the memory that is free now; glibc keeps some for each thread that allocated it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
