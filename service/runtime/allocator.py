"""Freed memory: returned to the operating system, if the C library supports it (glibc)."""

import ctypes
import gc

LARGE_BYTES = 4 << 20
"""Blocks of at least this size are returned when freed; only large photos usually need them."""
_M_MMAP_THRESHOLD = -3


def return_large_blocks() -> None:
    """Make the C library map large blocks separately, so that it returns them when freed.

    Otherwise, glibc raises this threshold up to 32 MiB, and keeps more memory.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)


def trim_memory() -> None:
    """Return unused memory, which glibc otherwise keeps for each thread that allocated it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def freeze_garbage_collector() -> None:
    """Exclude what is loaded by now from garbage collection, which stops every thread.

    Models are loaded later and are collected as usual.
    """
    gc.collect()
    gc.freeze()
