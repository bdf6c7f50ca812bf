"""Routes and their schemas."""
