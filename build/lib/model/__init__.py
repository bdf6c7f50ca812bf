"""MM-Interleaved (arXiv 2401.10208): the model, its engines, its checkpoints and its training."""
