"""Encoding and decoding of the Open Inference Protocol, for any transport."""
