"""What a request may be at most."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Budgets of one request, and of all bodies being read by one gateway process."""

    body_bytes: int = 32 * 2**20
    bodies_bytes: int = 256 * 2**20
    body_seconds: float = 60.0
    text_characters: int = 100_000
    images: int = 16
    choices: int = 4
    image_bytes: int = 20 * 2**20
    image_pixels: int = 25_000_000
    images_pixels: int = 64_000_000
    image_side_min: int = 4
    stored_side: int = 1536
