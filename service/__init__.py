"""vt-serve: serves the Visual Transformer models of a model repository over HTTP."""

import os

__all__ = ["__version__"]

__version__ = "0.1.0"

# ONNX Runtime reads this when it is loaded. By default, a server sends no telemetry, and writes
# no machine identity below ~/.cache.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
