"""The images that wait for a model, and which of them run next."""
