"""Multiplications of one image, as published and as computed here. Runs on the meta device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bench.image_step import StepInputs
from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_decoder import ImageDecoder
from model.synchronizer.map_sampling import GridSampling


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
    """Count for one guided image with a preceding image."""
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
    return Flops(*(counter.get_total_flops() / 1e9 for counter in counters))
