"""Ways to evaluate the image decoder."""
