"""Where a model's weights begin, and how a phase's results are kept."""
