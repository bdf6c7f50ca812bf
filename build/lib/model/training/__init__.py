"""Training: data, losses, trainer and evaluation."""
