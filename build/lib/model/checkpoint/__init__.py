"""Checkpoints: our safetensors layout, and its conversion from and to the official one."""
