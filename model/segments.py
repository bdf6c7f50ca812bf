"""Segments: what an interleaved context consists of, in order."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class TextSegment:
    """Text in the context, not yet tokenised. Special tokens spelled in it are neutralised."""

    text: str


@dataclass(frozen=True)
class TokenSegment:
    """Text that the model generated, as the exact ids it sampled."""

    token_ids: tuple[int, ...]


@dataclass(frozen=True)
class ImageSegment:
    """An image in the context. `digest` is the hash of its bytes, a key for feature caches."""

    image: Image.Image
    digest: str


Segment = TextSegment | TokenSegment | ImageSegment
