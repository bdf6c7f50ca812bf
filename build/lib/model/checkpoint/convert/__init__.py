"""Conversion from and to the official checkpoint layout."""
