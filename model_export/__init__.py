"""Turn trained Visual Transformer checkpoints into verified entries of a model repository."""
