"""Recorded inputs of the image decoder."""

from __future__ import annotations

from torch import Tensor

from model.synchronizer.unet_synchronizer import flatten_maps
from tests.model import golden


def previous(maps: tuple[Tensor, ...], index_B: Tensor) -> list[Tensor]:
    """The maps of a preceding image each, zeros where there is none (-1)."""
    there = (index_B >= 0)[:, None, None, None, None]
    return [x[index_B.clamp(min=0)][:, None] * there for x in maps]


def unet_inputs(maps: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Latents, timesteps, image tokens, positions of the preceding images' maps, visibility."""
    full = golden.tensors("full_model")
    index = full["in/unet_image_index"]
    return (
        full["in/unet_latents"],
        full["in/unet_timesteps"],
        full["out/conditioning_train"][index],
        flatten_maps(previous(maps, full["out/imgdec_prev_image_train"][index])),
        full["out/imgdec_mmfs_mask_train"][index],
    )
