"""The machine and ONNX Runtime; knows no requests."""
