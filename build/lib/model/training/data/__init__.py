"""Data: examples from worlds and shards, and the batches made of them."""
