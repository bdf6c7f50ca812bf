"""What all denoising steps of an image share.

Legend: B images, N rows (B, or 2B with both guidance halves: negative first), T image tokens, h
heads, d head width, I conditioning images (one in practice), V positions of their maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """What a batch of images is conditioned on, in the form that the U-Net reads.

    Attributes:
        keys: of the image tokens, [N, h, T, d] for every cross-attention in order of use.
        values: of the image tokens, likewise.
        maps: the synchronizer's values of the maps, [B, I, V, h, d] for every block; empty without
            a synchronizer.
        visible: [B, I], which conditioning images exist.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    visible: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Keys, values and maps in one row, as exported graphs take and return them."""
        return (*self.keys, *self.values, *self.maps)

    @staticmethod
    def of(tensors: Sequence[Tensor], num_cross: int, visible: Tensor) -> Conditions:
        """Undo `tensors`, for a U-Net of `num_cross` cross-attentions."""
        keys, values = tensors[:num_cross], tensors[num_cross : 2 * num_cross]
        return Conditions(tuple(keys), tuple(values), tuple(tensors[2 * num_cross :]), visible)

    @property
    def num_bytes(self) -> int:
        return sum(x.nbytes for x in (*self.tensors, self.visible))

    def clone(self) -> Conditions:
        """A copy in memory of its own."""
        tensors = [x.clone() for x in self.tensors]
        return Conditions.of(tensors, len(self.keys), self.visible.clone())

    def copy_(self, source: Conditions) -> None:
        """Overwrite with conditions of the same shapes."""
        pairs = zip((*self.tensors, self.visible), (*source.tensors, source.visible), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)

    @staticmethod
    def stack(images: Sequence[Conditions], negative: Conditions | None = None) -> Conditions:
        """Join images to a batch; with `negative`, its half comes first in keys and values."""

        def join(parts: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
            return tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))

        keys, values = [x.keys for x in images], [x.values for x in images]
        if negative is not None:
            num = sum(x.visible.shape[0] for x in images)
            keys.insert(0, tuple(x.expand(num, -1, -1, -1) for x in negative.keys))
            values.insert(0, tuple(x.expand(num, -1, -1, -1) for x in negative.values))
        return Conditions(
            join(keys),
            join(values),
            join([x.maps for x in images]),
            torch.cat([x.visible for x in images]),
        )
