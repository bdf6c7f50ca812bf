"""The Llama decoder with synchronizers, of vLLM's parts."""
