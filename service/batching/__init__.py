"""The queue of a model, and the batches that run from it."""
