"""What image tokens learn to be: codes of facts, then of a sketch."""
