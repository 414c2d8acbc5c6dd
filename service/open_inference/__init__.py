"""The Open Inference Protocol's bytes, for any transport."""
