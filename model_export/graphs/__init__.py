"""Making ONNX graphs: tracing, weight sharing, reduced precisions."""
