"""Benchmark of the image engine."""
