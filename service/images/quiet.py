"""Keeps the decoders off standard error and out of the log."""

import ctypes
import logging

import structlog
from PIL import _imaging

_log = structlog.get_logger()


def silence_decoders() -> None:
    """Switch off the messages of Pillow and of libtiff, which writes to standard error as text.

    One damaged TIFF can cause thousands of them. Pillow raises an exception anyway. The functions
    are those of the very library that Pillow is linked to, wherever it comes from.
    """
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    try:
        library = ctypes.CDLL(_imaging.__file__)
        for name in ("TIFFSetErrorHandler", "TIFFSetWarningHandler"):
            set_handler = getattr(library, name)
            set_handler.argtypes = [ctypes.c_void_p]
            set_handler.restype = ctypes.c_void_p
            set_handler(None)
    except (AttributeError, OSError) as error:  # linked in, with hidden symbols
        _log.warning("libtiff_not_silenced", reason=str(error))
