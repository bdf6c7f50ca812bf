"""The public HTTP API: admission, event relay, health and metrics."""
