"""Serving engines: text (vLLM) and image (step-level batched diffusion)."""
