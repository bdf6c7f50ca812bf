"""One step at the published sizes, which a CPU can just do."""

from __future__ import annotations

import time

import torch
from rich.console import Console

from model.engine.bench_image_official import published_step
from model.image_decoder import ImageDecoder
from model.map_sampling import GridSampling, default_sampling
from model.picture_sampler import PictureSampler
from model.presets import preset


@torch.no_grad()
def full_size_step(console: Console) -> dict[str, float]:
    """One guided step of a picture at the published sizes, random weights, float32."""
    config = preset("13b")
    torch.manual_seed(0)
    decoder = ImageDecoder(config).eval()
    side, perceiver = config.image_decoder.latent_size, config.image_decoder.perceiver
    latents = torch.randn(1, 4, side, side)
    tokens = torch.randn(1, perceiver.num_queries, perceiver.hidden_size)
    num_features = sum(size * size for size in config.vision.map_sizes)
    features = torch.randn(1, 1, num_features, config.image_embed_dim)
    timestep = torch.tensor(500)
    seconds = {}
    started = time.perf_counter()
    published_step(decoder, latents, timestep, tokens, features)
    seconds["official"] = time.perf_counter() - started
    for name, sampling in (
        ("ours", default_sampling(torch.device("cpu"), torch.float32)),
        ("ours_grid_sample", GridSampling()),
    ):
        sampler = PictureSampler(
            decoder.decoder, decoder.neg_prompt_embeds, config.image_decoder, sampling
        )
        started = time.perf_counter()
        prepared = sampler.prepare_features(tokens, features, torch.ones(1, 1))
        seconds[f"{name}_prepare"] = time.perf_counter() - started
        batch = sampler.batch([prepared], guided=True)
        started = time.perf_counter()
        sampler.predict(latents, timestep.expand(1), batch)
        seconds[name] = time.perf_counter() - started
    for name, value in seconds.items():
        console.print(f"{name:24} {value:8.2f} s")
    return seconds
