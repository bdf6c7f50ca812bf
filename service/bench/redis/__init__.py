"""Benchmarks of the broker on Redis."""
