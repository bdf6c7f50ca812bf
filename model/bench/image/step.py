"""One denoising step, as published and as computed here: its inputs, and its multiplications.

Legend: B images, T image tokens, D width, V positions of a conditioning image's maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from model.bench.image.published import published_step
from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import ImageSampler
from model.image_decoder.unet.conditions import Conditions
from model.synchronizer.kernels.grid import GridSampling


@dataclass(frozen=True)
class StepInputs:
    """Latents, timesteps, image tokens, and the features of one conditioning image each."""

    latents_BCHW: Tensor
    timesteps_B: Tensor
    tokens_BTD: Tensor
    features_B1VD: Tensor

    @classmethod
    def random(cls, config: MMInterleavedConfig, batch: int, device: str | torch.device) -> Self:
        """Random float32 inputs, all at one timestep."""
        side, perceiver = config.image_decoder.latent_size, config.image_decoder.perceiver
        num_features = sum(size * size for size in config.vision.map_sizes)
        channels = int(config.image_decoder.unet["in_channels"])
        return cls(
            torch.randn(batch, channels, side, side, device=device),
            torch.full((batch,), 500, device=device),
            torch.randn(batch, perceiver.num_queries, perceiver.hidden_size, device=device),
            torch.randn(batch, 1, num_features, config.image_embed_dim, device=device),
        )

    def to(self, dtype: torch.dtype) -> StepInputs:
        """The same inputs in another number type."""
        tensors = (self.latents_BCHW, self.tokens_BTD, self.features_B1VD)
        latents, tokens, features = (tensor.to(dtype) for tensor in tensors)
        return StepInputs(latents, self.timesteps_B, tokens, features)

    def published(self, decoder: ImageDecoder) -> Tensor:
        """The prediction of the published step for both guidance halves."""
        return published_step(
            decoder, self.latents_BCHW, self.timesteps_B, self.tokens_BTD, self.features_B1VD
        )

    def prepare(self, sampler: ImageSampler) -> Conditions:
        """What our steps share: computed from tokens and features, for both guidance halves."""
        visible_B1 = torch.ones(len(self.tokens_BTD), 1, device=self.tokens_BTD.device)
        prepared = sampler.prepare(self.tokens_BTD, self.features_B1VD, visible_B1)
        return sampler.join([prepared], guided=True)


@dataclass(frozen=True)
class StepFlops:
    """Floating-point operations of matrix products, convolutions and attention, in units of 1e9.

    Neither side counts the sampling of maps (gathering and weighting): it is the same work.
    """

    published_step: float
    our_prepare: float
    our_step: float
    decode: float

    @classmethod
    def count(cls, config: MMInterleavedConfig) -> Self:
        """Count for one guided image with a preceding image, on the meta device."""
        with torch.device("meta"), torch.no_grad():
            decoder = ImageDecoder(config).eval()
            x = StepInputs.random(config, 1, "meta")
            sampler = decoder.sampler(GridSampling())
            with FlopCounterMode(display=False) as published:
                x.published(decoder)
            with FlopCounterMode(display=False) as prepare:
                batch = x.prepare(sampler)
            with FlopCounterMode(display=False) as step:
                sampler.predict(x.latents_BCHW, x.timesteps_B, batch)
            with FlopCounterMode(display=False) as decode:
                sampler.decode(x.latents_BCHW)
        counters = (published, prepare, step, decode)
        return cls(*(counter.get_total_flops() / 1e9 for counter in counters))

    def published_image(self, steps: int) -> float:
        """All steps and the autoencoder, as published."""
        return steps * self.published_step + self.decode

    def our_image(self, steps: int) -> float:
        """Preparation, all steps and the autoencoder."""
        return self.our_prepare + steps * self.our_step + self.decode
