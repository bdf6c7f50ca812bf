"""From stored events and results to the response."""
