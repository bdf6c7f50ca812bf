"""Sizes: the schema, the presets and the published configuration."""
