"""The U-Net: one evaluation, what all of them share, and attention that knows places."""
