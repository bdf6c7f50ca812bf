"""What `mmi bench text` asks for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from model.checkpoint import store
from model.config import MMInterleavedConfig
from model.engine.protocol import ImageSegment, Segment, TextSegment
from model.processor import Processor

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_WORDS = ("a", "picture", "of", "the", "house", "and", "its", "garden", "seen", "from", "above")


@dataclass
class Workload:
    """Requests of the same shape, each with pictures of its own, so that none shares a cache."""

    config: MMInterleavedConfig
    processor: Processor
    num_images: int
    num_words: int
    num_tokens: int
    _drawn: int = 0

    @classmethod
    def make(
        cls, checkpoint: Path, largest: int, num_images: int, num_words: int, num_tokens: int
    ) -> Workload:
        """A workload for a checkpoint."""
        config = store.load_config(checkpoint)
        processor = Processor(config, store.load_tokenizer(checkpoint))
        return cls(config, processor, num_images, num_words, num_tokens)

    def contexts(self, number: int) -> list[tuple[Segment, ...]]:
        """New requests."""
        return [self._context() for _ in range(number)]

    def cache_bytes(self, batch: int, dtype: str) -> int:
        """Paged cache that holds a batch, with room for two turns of each, or the longest one."""
        config, llm = self.config, self.config.llm
        numbers = 2 * llm.num_hidden_layers * llm.kv_heads * llm.head_width
        numbers += config.vectors_per_token * config.image_embed_dim + llm.hidden_size + 8
        tokens = self.num_images * (config.num_img_token + 1) + 4 * self.num_words
        longest = min(config.seq_len, llm.max_position_embeddings) + 128
        tokens = max(batch * 2 * (tokens + 2 * self.num_tokens + 64), longest)
        return tokens * numbers * _BYTES[dtype]

    def _context(self) -> tuple[Segment, ...]:
        """Text, then pictures."""
        self._drawn += 1
        rng = np.random.default_rng(self._drawn)
        words = " ".join(rng.choice(_WORDS, self.num_words))
        return (TextSegment(f"{self._drawn} {words}"), *self._pictures(rng))

    def _pictures(self, rng: np.random.Generator) -> Iterator[ImageSegment]:
        side = self.config.vision.image_size
        for number in range(self.num_images):
            coarse = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((side, side))
            yield ImageSegment(picture, f"bench-{self._drawn}-{number}")
