"""From events to the response."""
