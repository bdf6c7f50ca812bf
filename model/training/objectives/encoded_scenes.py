"""Random scenes with what a frozen encoder makes of them, computed once.

It makes a step of the perceiver about ten times cheaper than one through the encoder.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from model.training.features import FeatureBank
from model.training.world.examples import any_scene
from model.training.world.scene import Scene
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer


class EncodedScenes:
    """Scenes of the world and, once they were drawn, their patches."""

    def __init__(
        self, tokenizer: VisualTokenizer, number: int, object_set: str = "drawn", seed: int = 0
    ) -> None:
        rng = random.Random(f"encoded/{seed}")
        self.tokenizer, self.seed = tokenizer, seed
        self.scenes: list[Scene] = [any_scene(rng, object_set) for _ in range(number)]
        self.bank = FeatureBank(tokenizer, sides=())

    def draw(self, step: int, number: int) -> tuple[Tensor, Tensor]:
        """The tokens [B, T, D] that the perceiver makes of a step's scenes, and their indices."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen_B = torch.randint(len(self.scenes), (number,), generator=generator)
        scenes = [self.scenes[index] for index in chosen_B.tolist()]
        return self.bank.features(self.tokenizer, scenes).tokens_NTD, chosen_B


def perceiver_parameters(tokenizer: VisualTokenizer) -> tuple[torch.nn.Parameter, ...]:
    """What stands between the encoder and the visual tokens."""
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
