"""Targets: what objectives compare the model with."""
