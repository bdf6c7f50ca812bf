"""Multiplications of one picture, as published and as computed here. Runs on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.config import MMInterleavedConfig
from model.engine.bench_image_official import published_step
from model.image_decoder import ImageDecoder
from model.map_sampling import GridSampling
from model.picture_sampler import PictureSampler


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of matrix products, convolutions and attention, in units of 1e9.

    Sampling itself (gathering and weighting) is counted by neither side: it is the same work.
    """

    published_step: float
    our_prepare: float
    our_step: float
    decode: float

    def published_picture(self, steps: int) -> float:
        """All steps and the autoencoder."""
        return steps * self.published_step + self.decode

    def our_picture(self, steps: int) -> float:
        """Preparation, all steps and the autoencoder."""
        return self.our_prepare + steps * self.our_step + self.decode


def count(config: MMInterleavedConfig) -> Flops:
    """Count for one guided picture with a preceding image."""
    with torch.device("meta"), torch.no_grad():
        decoder = ImageDecoder(config).eval()
        perceiver, side = config.image_decoder.perceiver, config.image_decoder.latent_size
        tokens = torch.empty(1, perceiver.num_queries, perceiver.hidden_size)
        num_features = sum(side * side for side in config.vision.map_sizes)
        features = torch.empty(1, 1, num_features, config.image_embed_dim)
        latents = torch.empty(1, int(config.image_decoder.unet["in_channels"]), side, side)
        sampler = PictureSampler(
            decoder.decoder, decoder.neg_prompt_embeds, config.image_decoder, GridSampling()
        )
        with FlopCounterMode(display=False) as published:
            published_step(decoder, latents, torch.empty(()), tokens, features)
        with FlopCounterMode(display=False) as prepare:
            prepared = sampler.prepare_features(tokens, features, torch.empty(1, 1))
        batch = sampler.batch([prepared], guided=True)
        with FlopCounterMode(display=False) as step:
            sampler.predict(latents, torch.empty(1), batch)
        with FlopCounterMode(display=False) as decode:
            sampler.decode(latents)
    counters = (published, prepare, step, decode)
    return Flops(*(counter.get_total_flops() / 1e9 for counter in counters))
