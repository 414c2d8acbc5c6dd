"""Gives memory that was freed back to the operating system."""

import ctypes


def trim_memory() -> None:
    """Where the C library can: glibc keeps what was freed, for each thread that allocated it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
