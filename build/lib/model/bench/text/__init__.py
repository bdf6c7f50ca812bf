"""Benchmark of the text engine."""
