"""The ONNX Runtime execution providers that graphs are measured on."""

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
"""Command-line name to ONNX Runtime's name."""
