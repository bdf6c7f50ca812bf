"""Checks on a card. `make test-gpu` runs them and the other tests with the marker."""
