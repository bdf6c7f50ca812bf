"""The image engine: step-level batched denoising."""
