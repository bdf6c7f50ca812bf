"""Ways to run the image decoder: one protocol, one module for each library."""
