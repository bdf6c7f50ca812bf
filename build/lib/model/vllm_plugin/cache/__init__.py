"""Layers of the paged cache that hold facts about tokens beside keys and values."""
