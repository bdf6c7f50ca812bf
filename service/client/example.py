"""The request that the demo and the measurements send: a hero's picture and a wish for a story."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from service.client.stream import Given, content_of

IMAGE = Path(__file__).resolve().parents[2] / "deploy" / "demo" / "pip.png"
INTRODUCTION = "This is Pip."


def story_wish(number: str) -> str:
    """The wish for a story in a number of pictures, as a word."""
    return f"Tell me a story in {number} pictures about Pip and a penguin in the forest."


WISH = story_wish("three")


def example_parts(wish: str = WISH) -> list[Given]:
    """Who the story is about, in words and in a picture, and what the user wishes."""
    return [Given(text=INTRODUCTION), Given(path=IMAGE), Given(text=wish)]


def example_request(seed: int, steps: int) -> dict[str, Any]:
    """A story of three pictures, each drawn in `steps` denoising steps."""
    return {
        "content": content_of(example_parts()),
        "max_tokens": 160,
        "max_images": 3,
        "temperature": 0.3,
        "seed": seed,
        "image": {"steps": steps, "scheduler": "dpmsolver++", "seed": seed},
    }
