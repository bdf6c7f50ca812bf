"""What a frozen encoder makes of pictures, computed once for each picture.

Legend: N pictures, V patches, C vision width, s side of a map.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from model.mm_interleaved import MMInterleaved
from model.training.data import Tokenised, pictures_of, pixels_of
from model.training.world.examples import Drawable
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

_BATCH = 16
_Encoded = tuple[Tensor, tuple[Tensor, ...]]


class FeatureBank:
    """Patches and maps of pictures, in float16, on the encoder's device.

    The perceiver behind them may go on learning.

    With `sides` it keeps the maps of those sides only; the language model reads three of four, the
    perceiver none.
    """

    def __init__(self, tokenizer: VisualTokenizer, sides: Collection[int] | None = None) -> None:
        self.encoder, self.sides = tokenizer, sides
        self._known: dict[Drawable, _Encoded] = {}

    def features(self, tokenizer: VisualTokenizer, pictures: Sequence[Drawable]) -> VisualFeatures:
        """The features of pictures by `tokenizer`, whose encoder is the bank's own."""
        if not pictures:
            return tokenizer(torch.zeros(0))
        self._learn(list(dict.fromkeys(p for p in pictures if p not in self._known)))
        entries = [self._known[picture] for picture in pictures]
        encoded_NLC = torch.stack([patches.float() for patches, _ in entries])
        levels = zip(*(maps for _, maps in entries), strict=True)
        maps = tuple(torch.stack([m.float() for m in level]) for level in levels)
        return tokenizer.condense(encoded_NLC, maps)

    @torch.no_grad()
    def _learn(self, pictures: Sequence[Drawable]) -> None:
        size = self.encoder.config.vision.image_size
        for start in range(0, len(pictures), _BATCH):
            batch = pictures[start : start + _BATCH]
            pixels_N3SS = torch.stack([pixels_of(picture.render(size)) for picture in batch])
            encoded_NLC, maps = self.encoder.encode(pixels_N3SS.to(self.encoder.pos_embed.device))
            kept = [m for m in maps if self.sides is None or m.shape[-1] in self.sides]
            halves = encoded_NLC.half(), tuple(map_NCss.half() for map_NCss in kept)
            for index, picture in enumerate(batch):
                patches_LC = halves[0][index].clone()
                self._known[picture] = patches_LC, tuple(m[index].clone() for m in halves[1])


def features_of(
    sequences: Sequence[Tokenised], model: MMInterleaved, bank: FeatureBank | None
) -> VisualFeatures | None:
    """The features of some sequences' pictures, from a bank if there is one."""
    if bank is None:
        return None
    return bank.features(model.visual_tokenizer, pictures_of(sequences))
