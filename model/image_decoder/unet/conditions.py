"""What all denoising steps of an image share.

Legend: B images, N rows (B, or 2B with both guidance halves: negative first), T image tokens, h
heads, d head width, I conditioning images (one in practice), V positions of their maps, C channels,
S side of the latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor


@dataclass(frozen=True)
class Conditions:
    """What a batch of images is conditioned on, in the form that the U-Net reads.

    Attributes:
        keys: of the image tokens, [N, h, T, d] for every cross-attention in order of use.
        values: of the image tokens, likewise.
        canvas: the image tokens laid out over the image, one tensor [N, C, S, S]; empty unless they
            form a grid.
        maps: the synchronizer's values of the maps, [B, I, V, h, d] for every block; empty without
            a synchronizer.
        visible: [B, I], which conditioning images exist.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    canvas: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    visible: Tensor

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Keys, values, canvas and maps in one row, as exported graphs take and return them."""
        return (*self.keys, *self.values, *self.canvas, *self.maps)

    @staticmethod
    def of(tensors: Sequence[Tensor], like: Conditions, visible: Tensor) -> Conditions:
        """Undo `tensors` of the U-Net that made `like`."""
        rest = iter(tensors)
        keys, values, canvas = (
            tuple(islice(rest, len(part))) for part in (like.keys, like.values, like.canvas)
        )
        return Conditions(keys, values, canvas, tuple(rest), visible)

    @property
    def num_bytes(self) -> int:
        return sum(x.nbytes for x in (*self.tensors, self.visible))

    def clone(self) -> Conditions:
        """A copy in memory of its own."""
        tensors = [x.clone() for x in self.tensors]
        return Conditions.of(tensors, self, self.visible.clone())

    def copy_(self, source: Conditions) -> None:
        """Overwrite with conditions of the same shapes."""
        pairs = zip((*self.tensors, self.visible), (*source.tensors, source.visible), strict=True)
        for mine, theirs in pairs:
            mine.copy_(theirs)

    @staticmethod
    def stack(images: Sequence[Conditions], negative: Conditions | None = None) -> Conditions:
        """Join images to a batch; with `negative`, its half comes first in all but the maps."""
        num = sum(x.visible.shape[0] for x in images)

        def join(
            parts: Sequence[tuple[Tensor, ...]], negative: tuple[Tensor, ...] = ()
        ) -> tuple[Tensor, ...]:
            joined = tuple(torch.cat(tensors) for tensors in zip(*parts, strict=True))
            if not negative:
                return joined
            pairs = zip(negative, joined, strict=True)
            return tuple(torch.cat((x.expand(num, -1, -1, -1), y)) for x, y in pairs)

        return Conditions(
            join([x.keys for x in images], negative.keys if negative else ()),
            join([x.values for x in images], negative.values if negative else ()),
            join([x.canvas for x in images], negative.canvas if negative else ()),
            join([x.maps for x in images]),
            torch.cat([x.visible for x in images]),
        )
