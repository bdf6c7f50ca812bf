"""The image worker."""
