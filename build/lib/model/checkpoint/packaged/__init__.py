"""A language model that comes in a package: its file, and what was learned on top of it."""
