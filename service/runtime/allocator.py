"""Gives memory that was freed back to the operating system, where the C library can (glibc)."""

import ctypes

LARGE_BYTES = 4 << 20
"""Blocks from here on go back when they are freed: those of large photos, rarely others."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Have the C library map large blocks one by one, so that it cannot keep them.

    glibc raises that size by itself to 32 MiB once such a block was freed, and keeps more then.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """Give back what is free now: glibc keeps it, for each thread that allocated it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
