"""Sizes that the synchronizer's sampling depends on, and where an image's vectors lie."""

from __future__ import annotations

from dataclasses import dataclass

from model.config.schema import MMInterleavedConfig


@dataclass(frozen=True)
class Geometry:
    """Heads, points and maps of the text synchronizer, and their packing into placeholders."""

    num_heads: int
    num_points: int
    sides: tuple[int, ...]
    base_side: int
    channels: int
    vectors_per_token: int
    image_tokens: int
    value_width: int
    max_images: int
    num_relative: int

    @classmethod
    def of(cls, config: MMInterleavedConfig) -> Geometry:
        """The sizes of a model."""
        synchronizer = config.text_synchronizer
        width = synchronizer.attn_dim or config.llm.hidden_size
        return cls(
            num_heads=synchronizer.n_heads,
            num_points=synchronizer.n_points,
            sides=config.spatial_shapes,
            base_side=config.base_spatial_shape,
            channels=config.image_embed_dim,
            vectors_per_token=config.vectors_per_token,
            image_tokens=config.num_img_token,
            value_width=int(width * synchronizer.ratio),
            max_images=min(config.max_images, synchronizer.max_num_image_per_seq - 1),
            num_relative=synchronizer.max_num_image_per_seq,
        )

    @property
    def level_starts(self) -> tuple[int, ...]:
        """Index of each map's first vector within an image."""
        starts, start = [], 0
        for side in self.sides:
            starts.append(start)
            start += side * side
        return tuple(starts)

    @property
    def num_offsets(self) -> int:
        """Numbers of a query that say where to sample: x and y of each head's points."""
        return self.num_heads * self.num_points * 2

    @property
    def num_logits(self) -> int:
        """Numbers of a query that say how much to take from there, on each map."""
        return self.num_heads * len(self.sides) * self.num_points

    @property
    def token_width(self) -> int:
        """Numbers that a placeholder token carries in the feature cache."""
        return self.vectors_per_token * self.channels
