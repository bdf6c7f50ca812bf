"""Memory that serving a checkpoint needs."""
