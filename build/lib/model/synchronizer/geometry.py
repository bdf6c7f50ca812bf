"""Sizes that grid sampling depends on, where vectors lie in memory, and which images a token sees.

Legend: T tokens, R requests, I images, W blocks of a request, P reference points.

Feature vectors are paged: a slot holds `vectors_per_token` vectors of an image, an image takes
`image_tokens` slots, and a request's slots are found through its table of blocks. Dense maps are
the trivial case: a slot holds a whole image, and a block is a slot.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from model.config.schema import MMInterleavedConfig

# Columns that kernels add to a weighted sum of vectors: the mass of the softmax that fell on the
# ignore token, and the mass that fell inside the maps.
EXTRA = 2


@dataclass(frozen=True)
class Geometry:
    """Heads, points and maps, and the packing of an image's vectors into slots.

    With `own_vectors`, each head reads vectors of its own: a slot holds [heads, vectors_per_token].
    """

    num_heads: int
    num_points: int
    sides: tuple[int, ...]
    base_side: int
    channels: int
    vectors_per_token: int
    image_tokens: int
    max_images: int
    num_relative: int
    own_vectors: bool = False

    @classmethod
    def of_text(cls, config: MMInterleavedConfig) -> Geometry:
        """The language model's: all heads read the raw features in the placeholders' slots."""
        synchronizer = config.text_synchronizer
        return cls(
            num_heads=synchronizer.n_heads,
            num_points=synchronizer.n_points,
            sides=config.spatial_shapes,
            base_side=config.base_spatial_shape,
            channels=config.image_embed_dim,
            vectors_per_token=config.vectors_per_token,
            image_tokens=config.num_img_token,
            max_images=min(config.max_images, synchronizer.max_num_image_per_seq - 1),
            num_relative=synchronizer.max_num_image_per_seq,
        )

    @classmethod
    def of_maps(
        cls, num_heads: int, num_points: int, sides: tuple[int, ...], base_side: int, channels: int
    ) -> Geometry:
        """Dense maps of one image, projected for each head."""
        return cls(
            num_heads=num_heads,
            num_points=num_points,
            sides=sides,
            base_side=base_side,
            channels=channels,
            vectors_per_token=sum(side * side for side in sides),
            image_tokens=1,
            max_images=1,
            num_relative=2,
            own_vectors=True,
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
    def num_predicted(self) -> int:
        """Offsets and logits of a query."""
        return self.num_offsets + self.num_logits

    @property
    def num_tables(self) -> int:
        """How many lists of `vectors_per_token` vectors a slot holds."""
        return self.num_heads if self.own_vectors else 1

    @property
    def token_width(self) -> int:
        """Numbers that a slot holds."""
        return self.num_tables * self.vectors_per_token * self.channels


@dataclass
class Sight:
    """Images in sight of a step's tokens: numbers `base` to `count` of the token's request.

    Token t looks from the reference point t modulo P: (x, y) relative to an image, float32.
    """

    request_T: Tensor
    base_T: Tensor
    count_T: Tensor
    image_start_RI: Tensor  # position of each image's first placeholder
    block_table_RW: Tensor
    block_size: int
    reference_P2: Tensor

    @classmethod
    def of_maps(cls, visible_B: Tensor, num_rows: int, reference_P2: Tensor) -> Sight:
        """Each of `num_rows` rows of P queries looks at one image, row n at image n modulo B."""
        num_images, device = len(visible_B), visible_B.device
        image_B = torch.arange(num_images, device=device)
        image_N = image_B.repeat(num_rows // num_images)
        image_T = image_N.repeat_interleave(len(reference_P2))
        return cls(
            request_T=image_T,
            base_T=torch.zeros_like(image_T),
            count_T=visible_B.long()[image_T],
            image_start_RI=torch.zeros_like(image_B)[:, None],
            block_table_RW=image_B[:, None],
            block_size=1,
            reference_P2=reference_P2,
        )
