"""Commands that run the whole system on one machine."""
