"""The requests of `mmi bench text`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.checkpoint import store
from model.config.schema import MMInterleavedConfig
from model.processor import Processor
from model.segments import ImageSegment, Segment, TextSegment

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WORDS = ("a", "picture", "of", "the", "house", "and", "its", "garden", "seen", "from", "above")


@dataclass(frozen=True)
class Workload:
    """Numbered requests of one shape. Each has images of its own, so no two share a cache."""

    config: MMInterleavedConfig
    processor: Processor
    num_images: int
    num_words: int

    @classmethod
    def make(cls, checkpoint: Path, num_images: int, num_words: int) -> Workload:
        """Build the workload for the sizes of a checkpoint."""
        config = store.load_config(checkpoint)
        processor = Processor(config, store.load_tokenizer(checkpoint))
        return cls(config, processor, num_images, num_words)

    @property
    def unwanted(self) -> tuple[int, ...]:
        """Tokens that change which images are visible, or announce an image that never comes."""
        special = self.config.special_tokens
        return special.bos_token_id, special.soi_token_id, special.image_token_id

    def contexts(self, first: int, number: int) -> list[tuple[Segment, ...]]:
        """`number` requests, from number `first` on."""
        return [self._context(first + index) for index in range(number)]

    def cache_bytes(self, batch: int, num_tokens: int, dtype: str) -> int:
        """Paged cache for two turns of every request, at least for the longest sequence."""
        config, llm = self.config, self.config.llm
        numbers = 2 * llm.num_hidden_layers * llm.kv_heads * llm.head_width
        numbers += config.vectors_per_token * config.image_embed_dim + llm.hidden_size + 8
        tokens = self.num_images * (config.num_img_token + 1) + 4 * self.num_words
        longest = min(config.seq_len, llm.max_position_embeddings) + 128
        tokens = max(batch * 2 * (tokens + 2 * num_tokens + 64), longest)
        return tokens * numbers * _BYTES[dtype]

    def _context(self, number: int) -> tuple[Segment, ...]:
        rng = np.random.default_rng(number)
        words = " ".join(rng.choice(_WORDS, self.num_words))
        return (TextSegment(f"{number} {words}"), *self._images(number, rng))

    def _images(self, number: int, rng: np.random.Generator) -> Iterator[ImageSegment]:
        side = self.config.vision.image_size
        for index in range(self.num_images):
            coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((side, side))
            yield ImageSegment(image, f"bench-{number}-{index}")
