"""The official layout: its directories, and the sizes that its tensors show."""
