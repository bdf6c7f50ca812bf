"""State in Redis, shared by gateways and workers."""
