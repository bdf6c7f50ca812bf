"""Measuring the service without a model."""
