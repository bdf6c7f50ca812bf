"""Redis: how it is found, connected to and checked."""
