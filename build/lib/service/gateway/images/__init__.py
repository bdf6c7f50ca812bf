"""Images from outside: fetched, checked, cleaned, and kept for their owners."""
