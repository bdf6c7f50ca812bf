"""The autoencoder's encoder without training."""

from __future__ import annotations

import random

import torch
from diffusers import AutoencoderKL

from model.config.schema import MMInterleavedConfig
from model.training.data.batches import pixels_of
from model.training.objectives.decoder.autoencoder import (
    AutoencoderBatches,
    AutoencoderObjective,
    write_principal_components,
)
from model.training.recipe import Phase
from tests.model.training.objectives.fixed_batch import WORLD


def test_the_written_encoder_is_linear_and_its_latents_vary(config: MMInterleavedConfig) -> None:
    vae = AutoencoderKL(**dict(config.image_decoder.vae)).requires_grad_(False)
    size, rng = config.image_decoder.image_size, random.Random(0)
    pixels = torch.stack([pixels_of(WORLD.scene(rng).render(size)) for _ in range(24)])
    write_principal_components(vae, pixels)
    first, second = pixels[:1] * 2 - 1, pixels[1:2] * 2 - 1
    means = [vae.encode(x).latent_dist.mean for x in (first, second, (first + second) / 2)]
    scale = means[0].abs().max()
    assert scale > 0.1
    assert (means[2] - (means[0] + means[1]) / 2).abs().max() < 1e-2 * scale


def test_only_the_decoder_learns_on_fixed_latents(config: MMInterleavedConfig) -> None:
    vae = AutoencoderKL(**dict(config.image_decoder.vae))
    phase = Phase("autoencoder", batch_size=1)
    objective = AutoencoderObjective(vae, config.image_decoder.image_size, phase, WORLD)
    objective.losses(0)["loss"].backward()
    assert all(parameter.grad is None for parameter in vae.encoder.parameters())
    (group,) = objective.groups()
    assert any(parameter.grad is not None for parameter in group.parameters)


def test_a_crop_is_a_part_of_the_whole_image() -> None:
    size, crop = 48, 16
    whole = AutoencoderBatches(WORLD, size, Phase("autoencoder", batch_size=1), seed=0)
    part = AutoencoderBatches(WORLD, size, Phase("autoencoder", batch_size=1, crop=crop), seed=0)
    (image,), (square,) = whole[0]["pixels"], part[0]["pixels"]
    places = image.unfold(1, crop, 1).unfold(2, crop, 1)
    assert (places == square[:, None, None]).all((-1, -2)).all(0).any()
    assert part[0]["things"].shape == (1, 1, crop, crop)
