"""Image tokens to pixels: Stable Diffusion with a synchronizer."""
