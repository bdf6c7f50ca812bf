"""The perceiver of the visual tokenizer on a frozen encoder: every fact from the visual tokens.

The patches of a bank of pictures are computed once, which makes a step about ten times cheaper
than one through the encoder.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import cached_property

import torch
from torch import Tensor, nn

from model.config import MMInterleavedConfig
from model.perceiver import Layer
from model.training.data import pixels_of
from model.training.objectives.facts import FactReadout, fact_targets
from model.training.trainer import ParameterGroup
from model.training.world.examples import any_scene
from model.visual_tokenizer import VisualTokenizer

_CHUNK = 50
_QUERY_WIDTH = 1.0
_SHARPNESS = 1.6
_TOKEN_WIDTH = 0.05


class CondenseObjective:
    """Reads every fact from the visual tokens, whose encoder stays as it is."""

    def __init__(
        self,
        config: MMInterleavedConfig,
        tokenizer: VisualTokenizer,
        batch_size: int = 48,
        object_set: str = "drawn",
        num_pictures: int = 3000,
        seed: int = 0,
    ) -> None:
        self.tokenizer = tokenizer
        self.facts = FactReadout(config.num_img_token * config.llm.hidden_size)
        self.module = nn.ModuleList([tokenizer, self.facts])
        self.batch_size, self.object_set = batch_size, object_set
        self.num_pictures, self.seed = num_pictures, seed

    def groups(self) -> list[ParameterGroup]:
        """The perceiver, the projections around it, and the readout."""
        tokenizer = self.tokenizer
        parts = nn.ModuleList(
            [
                tokenizer.pos_proj,
                tokenizer.pos_ln,
                tokenizer.post_ln,
                tokenizer.perceiver_resampler,
                tokenizer.proj,
                self.facts,
            ]
        )
        return [ParameterGroup(tuple(parts.parameters()))]

    @cached_property
    def bank(self) -> tuple[Tensor, Tensor]:
        """Encoded pictures [N, L, C] in float16, and their facts [N, F]."""
        rng = random.Random(f"condense/{self.seed}")
        encoded, targets = [], []
        for start in range(0, self.num_pictures, _CHUNK):
            number = min(_CHUNK, self.num_pictures - start)
            scenes = [any_scene(rng, self.object_set) for _ in range(number)]
            pixels_N3SS = torch.stack([pixels_of(scene.render()) for scene in scenes])
            with torch.no_grad():
                encoded.append(self.tokenizer.encode(pixels_N3SS)[0].half())
            targets.append(fact_targets(scenes))
        return torch.cat(encoded), torch.cat(targets)

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts."""
        encoded_NLC, targets_NF = self.bank
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step)
        chosen_B = torch.randint(len(encoded_NLC), (self.batch_size,), generator=generator)
        tokens_BTD = self.tokenizer.condense(encoded_NLC[chosen_B].float(), ()).tokens_NTD
        loss, accuracy = self.facts(tokens_BTD, targets_NF[chosen_B])
        return {"loss": loss, "accuracy": accuracy}


@torch.no_grad()
def spread_queries(tokenizer: VisualTokenizer) -> None:
    """Start the perceiver with queries that differ, and with attention that tells places apart."""
    perceiver = tokenizer.perceiver_resampler
    nn.init.normal_(perceiver.queries, std=_QUERY_WIDTH)
    for layer in perceiver.modules():
        if isinstance(layer, Layer) and layer.crossattention is not None:
            attention = layer.crossattention.attention
            for norm in (attention.q_norm, attention.k_norm):
                if isinstance(norm, nn.LayerNorm):
                    nn.init.constant_(norm.weight, _SHARPNESS)
    nn.init.normal_(tokenizer.proj.weight, std=_TOKEN_WIDTH)
