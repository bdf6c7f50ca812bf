"""The text worker."""
