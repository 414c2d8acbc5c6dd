"""Models on disk and in memory: finding, loading and unloading versions."""
