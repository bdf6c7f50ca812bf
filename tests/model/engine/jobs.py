"""A very small model for tests of the image engine, and ways to drive it step by step."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.checkpoint import seeded
from model.config.presets import preset
from model.config.schema import MMInterleavedConfig, SynchronizerConfig
from model.engine.image.job import ImageJob, ImageUpdate
from model.engine.image.loop import DenoisingLoop
from model.engine.protocol import ImageEnd
from model.sampling_params import ImageParams
from model.segments import ImageSegment


def small_config(prediction_type: str = "epsilon") -> MMInterleavedConfig:
    """Two levels, 8 x 8 latents, 32-pixel images; the first level has no cross-attention."""
    tiny = preset("tiny")
    decoder = dataclasses.replace(
        tiny.image_decoder,
        image_size=32,
        perceiver=dataclasses.replace(
            tiny.image_decoder.perceiver, num_queries=7, hidden_size=32, intermediate_size=64
        ),
        unet={
            **tiny.image_decoder.unet,
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [32, 64],
            "cross_attention_dim": 32,
            "attention_head_dim": [2, 2],
            "norm_num_groups": 8,
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        },
        vae={
            **tiny.image_decoder.vae,
            "latent_channels": 4,
            "block_out_channels": [16, 16, 16],
            "down_block_types": ["DownEncoderBlock2D"] * 3,
            "up_block_types": ["UpDecoderBlock2D"] * 3,
            "norm_num_groups": 8,
            "sample_size": 32,
        },
        scheduler={**tiny.image_decoder.scheduler, "prediction_type": prediction_type},
        synchronizer=SynchronizerConfig(n_heads=2, n_points=3, attn_dim=16),
    )
    vision = dataclasses.replace(
        tiny.vision,
        hidden_size=32,
        intermediate_size=32,
        num_attention_heads=2,
        num_hidden_layers=4,
        image_size=32,
        patch_size=8,
        interaction_indexes=((0, 0), (1, 1), (2, 2), (3, 3)),
    )
    return dataclasses.replace(
        tiny,
        name="small",
        image_decoder=decoder,
        vision=vision,
        visual_perceiver=dataclasses.replace(tiny.visual_perceiver, encoder_hidden_size=32),
        spatial_shapes=(8, 4, 2),
        base_spatial_shape=4,
    )


def small_checkpoint(directory: Path) -> Path:
    """A seeded checkpoint of the small model, which more than one thread only slows down."""
    torch.set_num_threads(1)
    return seeded.create_from(small_config(), directory)


def grid_checkpoint(directory: Path) -> Path:
    """Likewise, with image tokens that form a grid: one for four latents."""
    torch.set_num_threads(1)
    small = small_config()
    perceiver = dataclasses.replace(small.image_decoder.perceiver, num_queries=16)
    decoder = dataclasses.replace(
        small.image_decoder, perceiver=perceiver, token_grid=True, guide_maps=True
    )
    return seeded.create_from(dataclasses.replace(small, image_decoder=decoder), directory)


def tokens(seed: int) -> torch.Tensor:
    """Random image tokens."""
    return torch.randn(7, 32, generator=torch.Generator().manual_seed(seed))


def conditioning_image(shade: int) -> ImageSegment:
    """An image of two colours."""
    image = Image.new("RGB", (48, 40), (shade, 80, 255 - shade))
    image.paste((255, 255, shade), (10, 10, 30, 25))
    return ImageSegment(image, f"shade-{shade}")


def make_job(
    seed: int, params: ImageParams, previous: ImageSegment | None = None, **options: object
) -> tuple[ImageJob, list[ImageUpdate]]:
    """A image, and the list that its items go to."""
    items: list[ImageUpdate] = []
    height, width = (params.height or 32) // 4, (params.width or 32) // 4
    job = ImageJob(
        request_id=f"seed-{seed}",
        image_tokens_1TD=tokens(seed)[None],
        previous=previous,
        params=dataclasses.replace(params, seed=seed),
        size=(height, width),
        guidance_scale=7.5 if params.guidance_scale is None else params.guidance_scale,
        deadline=None,
        emit=items.append,
    )
    for name, value in options.items():
        setattr(job, name, value)
    return job, items


def drain(loop: DenoisingLoop, *outputs: Sequence[ImageUpdate], turns: int = 200) -> None:
    """Turn until every output has its end."""
    for _ in range(turns):
        if all(items and isinstance(items[-1], ImageEnd | Exception) for items in outputs):
            return
        loop.turn()
    raise AssertionError("the loop does not come to an end")


def pixels_of(items: Sequence[ImageUpdate]) -> np.ndarray:
    """The finished image's values."""
    end = items[-1]
    assert isinstance(end, ImageEnd), end
    return np.asarray(end.image).astype(int)
