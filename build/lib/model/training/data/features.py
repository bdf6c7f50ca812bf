"""Features of a frozen encoder, computed once for each image.

Legend: N images, V patches, C vision width, s side of a map.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from model.mm_interleaved import MMInterleaved
from model.training.data.batches import Tokenised, images_of, pixels_of
from model.training.world.drawable import Drawable, LabelledImage
from model.training.world.world import World
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

_BATCH = 16
_Encoded = tuple[Tensor, tuple[Tensor, ...]]


class FeatureBank:
    """Patches and maps of images, in float16, on the encoder's device.

    The perceiver that reads the patches may go on learning. With `sides` only the maps of those
    sides are kept: the language model reads three of four, the perceiver none.
    """

    def __init__(self, tokenizer: VisualTokenizer, sides: Collection[int] | None = None) -> None:
        self.encoder, self.sides = tokenizer, sides
        self._known: dict[Drawable, _Encoded] = {}

    def features(self, tokenizer: VisualTokenizer, images: Sequence[Drawable]) -> VisualFeatures:
        """The features of images by `tokenizer`, whose encoder is the bank's own."""
        if not images:
            return tokenizer(torch.zeros(0))
        self._learn(list(dict.fromkeys(p for p in images if p not in self._known)))
        entries = [self._known[image] for image in images]
        encoded_NLC = torch.stack([patches.float() for patches, _ in entries])
        levels = zip(*(maps for _, maps in entries), strict=True)
        maps = tuple(torch.stack([m.float() for m in level]) for level in levels)
        return tokenizer.condense(encoded_NLC, maps)

    @torch.no_grad()
    def _learn(self, images: Sequence[Drawable]) -> None:
        size = self.encoder.config.vision.image_size
        for start in range(0, len(images), _BATCH):
            batch = images[start : start + _BATCH]
            pixels_N3SS = torch.stack([pixels_of(image.render(size)) for image in batch])
            encoded_NLC, maps = self.encoder.encode(pixels_N3SS.to(self.encoder.pos_embed.device))
            kept = [m for m in maps if self.sides is None or m.shape[-1] in self.sides]
            halves = encoded_NLC.half(), tuple(map_NCss.half() for map_NCss in kept)
            for index, image in enumerate(batch):
                patches_LC = halves[0][index].clone()
                self._known[image] = patches_LC, tuple(m[index].clone() for m in halves[1])


def features_of(
    sequences: Sequence[Tokenised], model: MMInterleaved, bank: FeatureBank | None
) -> VisualFeatures | None:
    """The features of some sequences' images, from a bank if there is one."""
    if bank is None:
        return None
    return bank.features(model.visual_tokenizer, images_of(sequences))


class EncodedScenes:
    """Random scenes, with patches that are computed once.

    A step of the perceiver is then about ten times cheaper than one through the encoder.
    """

    def __init__(
        self, tokenizer: VisualTokenizer, number: int, world: World, seed: int = 0
    ) -> None:
        rng = random.Random(f"encoded/{seed}")
        self.tokenizer, self.seed = tokenizer, seed
        self.scenes: list[LabelledImage] = [world.scene(rng) for _ in range(number)]
        self.bank = FeatureBank(tokenizer, sides=())

    def draw(self, step: int, number: int) -> tuple[Tensor, Tensor]:
        """The tokens [B, T, D] that the perceiver makes of a step's scenes, and their indices."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen_B = torch.randint(len(self.scenes), (number,), generator=generator)
        scenes = [self.scenes[index] for index in chosen_B.tolist()]
        return self.bank.features(self.tokenizer, scenes).tokens_NTD, chosen_B


def perceiver_parameters(tokenizer: VisualTokenizer) -> tuple[torch.nn.Parameter, ...]:
    """The parameters between the encoder and the visual tokens."""
    parts = torch.nn.ModuleList(
        [
            tokenizer.pos_proj,
            tokenizer.pos_ln,
            tokenizer.post_ln,
            tokenizer.perceiver_resampler,
            tokenizer.proj,
        ]
    )
    return tuple(parts.parameters())
