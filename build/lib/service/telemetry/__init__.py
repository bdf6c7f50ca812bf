"""What a role tells of itself: logs, metrics, traces, probes."""
