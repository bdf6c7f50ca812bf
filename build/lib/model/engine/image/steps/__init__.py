"""Ways to evaluate a denoising step: recorded as a CUDA graph, or compiled block by block."""
