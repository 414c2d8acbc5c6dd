"""Bytes to pixels, labels to masks; pure functions."""
