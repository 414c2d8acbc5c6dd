"""Training: random views of the data, the loop, recipes and learning curves."""
