"""What is decided when the text engine starts: vLLM's arguments, ranks, memory and cache."""
