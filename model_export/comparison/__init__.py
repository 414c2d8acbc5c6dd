"""Comparing graphs with their checkpoints: parity, latency, accuracy."""
