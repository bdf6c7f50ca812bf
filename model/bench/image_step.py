"""The inputs of one denoising step, for whatever measures or counts it.

Legend: B images, T image tokens, D width, V positions of a conditioning image's maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from model.bench.image_official import published_step
from model.config.schema import MMInterleavedConfig
from model.image_decoder.conditions import Invariants
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import PictureSampler


@dataclass(frozen=True)
class StepInputs:
    """Latents, timesteps, image tokens, and the features of one conditioning image each."""

    latents_BCHW: Tensor
    timesteps_B: Tensor
    tokens_BTD: Tensor
    features_B1VD: Tensor

    @classmethod
    def random(cls, config: MMInterleavedConfig, batch: int, device: str | torch.device) -> Self:
        """Random ones, float32, all at one timestep."""
        side, perceiver = config.image_decoder.latent_size, config.image_decoder.perceiver
        num_features = sum(size * size for size in config.vision.map_sizes)
        channels = int(config.image_decoder.unet["in_channels"])
        return cls(
            torch.randn(batch, channels, side, side, device=device),
            torch.full((batch,), 500, device=device),
            torch.randn(batch, perceiver.num_queries, perceiver.hidden_size, device=device),
            torch.randn(batch, 1, num_features, config.image_embed_dim, device=device),
        )

    def reduced(self) -> StepInputs:
        """The same in bfloat16."""
        tensors = (self.latents_BCHW, self.tokens_BTD, self.features_B1VD)
        latents, tokens, features = (tensor.bfloat16() for tensor in tensors)
        return StepInputs(latents, self.timesteps_B, tokens, features)

    def published(self, decoder: ImageDecoder) -> Tensor:
        """The published step's prediction for both guidance halves."""
        return published_step(
            decoder, self.latents_BCHW, self.timesteps_B[0], self.tokens_BTD, self.features_B1VD
        )

    def prepare(self, sampler: PictureSampler) -> Invariants:
        """What our steps take of tokens and features, both guidance halves."""
        visible_B1 = torch.ones(len(self.tokens_BTD), 1, device=self.tokens_BTD.device)
        prepared = sampler.prepare_features(self.tokens_BTD, self.features_B1VD, visible_B1)
        return sampler.batch([prepared], guided=True)
