"""What the steps of an image share.

Legend: B images, N rows (B, or 2B with both guidance halves: negative first), T image tokens, h
heads, d head width, I conditioning images (one in practice), V positions of their maps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Invariants:
    """What stays the same over all steps of a batch of images.

    Attributes:
        keys: of the image tokens, [N, h, T, d] for every cross-attention in order of use.
        values: likewise.
        maps: the synchronizer's values, [B, I, V, h, d] for every block; empty without it.
        visible: [B, I], which conditioning images exist.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    visible: Tensor

    def to(
        self, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> Invariants:
        """The same on another device, floating tensors in another type."""
        return self.map(
            lambda x: x.to(device=device, dtype=dtype if x.is_floating_point() else None)
        )

    def map(self, function: Callable[[Tensor], Tensor]) -> Invariants:
        """The same with every tensor replaced."""
        return Invariants(
            tuple(function(x) for x in self.keys),
            tuple(function(x) for x in self.values),
            tuple(function(x) for x in self.maps),
            function(self.visible),
        )

    @property
    def num_bytes(self) -> int:
        """Memory of all tensors."""
        tensors = (*self.keys, *self.values, *self.maps, self.visible)
        return sum(x.numel() * x.element_size() for x in tensors)

    @staticmethod
    def stack(images: Sequence[Invariants], negative: Invariants | None = None) -> Invariants:
        """Join images to a batch; `negative` puts its half in front of keys and values."""

        def join(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

        keys, values = [x.keys for x in images], [x.values for x in images]
        if negative is not None:
            num = sum(x.visible.shape[0] for x in images)
            keys.insert(0, tuple(x.expand(num, -1, -1, -1) for x in negative.keys))
            values.insert(0, tuple(x.expand(num, -1, -1, -1) for x in negative.values))
        return Invariants(
            join(keys),
            join(values),
            join([x.maps for x in images]),
            torch.cat([x.visible for x in images]),
        )
