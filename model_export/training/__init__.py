"""The recipes that made the shipped weights: data, loop, metrics."""
