"""Pages for people, and probes for machines."""
