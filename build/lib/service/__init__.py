"""The serving system: gateway, queue, workers and command line."""
