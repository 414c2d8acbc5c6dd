"""Benchmarks, run by hand on an otherwise idle machine; they measure and assert nothing."""
