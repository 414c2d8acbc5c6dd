"""Typed words of files and messages; no behaviour."""
