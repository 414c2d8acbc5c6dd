"""Entries of the model repository: reading, describing and publishing versions."""
