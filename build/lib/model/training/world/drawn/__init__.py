"""The drawn world: flat shapes and emoji, exact from a seed."""
