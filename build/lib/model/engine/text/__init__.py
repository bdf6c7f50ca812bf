"""The text engine, on vLLM."""
