"""The life of a model version."""
