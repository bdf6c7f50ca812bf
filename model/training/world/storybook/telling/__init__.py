"""How words and scenes correspond: what is told as one, and what follows from it."""
