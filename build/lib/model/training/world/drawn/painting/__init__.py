"""Everything that is painted: backgrounds, things, heroes."""
