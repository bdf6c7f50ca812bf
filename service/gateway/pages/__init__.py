"""Pages for people and probes."""
