"""The machine and ONNX Runtime, independent of requests."""
