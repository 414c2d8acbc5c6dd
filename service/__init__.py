"""vt-serve: Visual Transformer models behind HTTP, from the files of a model repository."""

import os

__all__ = ["__version__"]

__version__ = "0.1.0"

# ONNX Runtime reads this when it is loaded. Unless somebody wants it otherwise, a server sends
# nothing home, and writes no identity of its machine under ~/.cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
