"""Words of the drawn world."""
