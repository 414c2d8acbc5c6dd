"""vt-serve: Visual Transformer models behind HTTP, from the files of a model repository."""

__all__ = ["__version__"]

__version__ = "0.1.0"
