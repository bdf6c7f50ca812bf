"""The image decoder as plain graphs: named tensors in, named tensors out, static shapes.

Legend: B images of a bucket, N rows (2B: negative half first), T image tokens, D width, V
positions of the preceding image's maps, C latent channels, H, W latent grid, S pixels.

`prepare` runs once per image, `denoise` at every step for a bucket of images, `decode` at the
end. Unguided images go through the guided graph, whose negative half is thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.image_decoder import unet_step
from model.image_decoder.conditions import Invariants
from model.image_decoder.sampler import PictureSampler

GraphName = Literal["prepare", "denoise", "decode"]
GRAPHS: tuple[GraphName, ...] = ("prepare", "denoise", "decode")


@dataclass(frozen=True)
class Graph:
    """A module with everything that exporting it needs.

    Attributes:
        name: which of the graphs.
        bucket: images per evaluation.
        module: to trace.
        inputs: example inputs by name, in order.
        output_names: in order.
    """

    name: GraphName
    bucket: int
    module: nn.Module
    inputs: dict[str, Tensor]
    output_names: tuple[str, ...]

    @property
    def key(self) -> str:
        """A file name."""
        return f"{self.name}-{self.bucket}"


class PrepareGraph(nn.Module):
    """Image tokens and maps to what all steps share."""

    def __init__(self, sampler: PictureSampler) -> None:
        super().__init__()
        self.unet, self.synchronizer = sampler.unet, sampler.synchronizer

    def forward(self, image_tokens_BTD: Tensor, features_B1VD: Tensor) -> tuple[Tensor, ...]:
        """Keys, values and maps, in the order of `invariant_names`."""
        visible_B1 = features_B1VD.new_ones(features_B1VD.shape[0], 1)
        prepared = unet_step.prepare(
            self.unet, self.synchronizer, image_tokens_BTD, features_B1VD, visible_B1
        )
        return (*prepared.keys, *prepared.values, *prepared.maps)


class DenoiseGraph(nn.Module):
    """One evaluation of the U-Net."""

    def __init__(self, sampler: PictureSampler) -> None:
        super().__init__()
        self.unet, self.synchronizer = sampler.unet, sampler.synchronizer
        self.num_cross = len(sampler.negative.keys)

    def forward(
        self, latents_BCHW: Tensor, timesteps_B: Tensor, visible_B1: Tensor, *invariants: Tensor
    ) -> Tensor:
        """Noise [N, C, H, W] in float32."""
        num = self.num_cross
        joined = Invariants(
            invariants[:num], invariants[num : 2 * num], invariants[2 * num :], visible_B1
        )
        dtype = self.unet.dtype
        noise = unet_step.denoise(
            self.unet, self.synchronizer, latents_BCHW.to(dtype), timesteps_B, joined
        )
        return noise.float()


class DecodeGraph(nn.Module):
    """Latents to pixels, in float32."""

    def __init__(self, sampler: PictureSampler) -> None:
        super().__init__()
        self.vae = sampler.vae
        self.scaling_factor = float(sampler.config.vae["scaling_factor"])

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        pixels: Tensor = self.vae.decode(latents_BCHW / self.scaling_factor, return_dict=False)[0]
        return (pixels / 2 + 0.5).clamp(0, 1)


def invariant_names(sampler: PictureSampler) -> tuple[str, ...]:
    """Names of the tensors between `prepare` and `denoise`."""
    num_cross = len(sampler.negative.keys)
    num_blocks = len(sampler.synchronizer.blocks) if sampler.synchronizer else 0
    return (
        *(f"keys_{i}" for i in range(num_cross)),
        *(f"values_{i}" for i in range(num_cross)),
        *(f"maps_{i}" for i in range(num_blocks)),
    )


@torch.no_grad()
def graphs(
    sampler: PictureSampler, num_features: int, feature_width: int, buckets: Sequence[int]
) -> list[Graph]:
    """All graphs to export: `prepare` for one image, the others for every bucket.

    Args:
        sampler: the networks, with `GridSampling`.
        num_features: positions of the preceding image's maps.
        feature_width: their width.
        buckets: numbers of images.
    """
    generator = torch.Generator().manual_seed(0)
    config, dtype, device = sampler.config, sampler.unet.dtype, sampler.unet.device
    names = invariant_names(sampler)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    perceiver = config.perceiver
    prepare = PrepareGraph(sampler).eval()
    prepare_inputs = {
        "image_tokens": random(1, perceiver.num_queries, perceiver.hidden_size).to(dtype),
        "features": random(1, 1, num_features, feature_width).to(dtype),
    }
    prepared = prepare(*prepare_inputs.values())
    num_cross = len(sampler.negative.keys)
    negative = (*sampler.negative.keys, *sampler.negative.values)
    made = [Graph("prepare", 1, prepare, prepare_inputs, names)]
    grid = (int(config.unet["in_channels"]), config.latent_size, config.latent_size)
    for bucket in buckets:
        rows = [
            torch.cat([negative[i]] * bucket + [x] * bucket)
            if i < 2 * num_cross
            else torch.cat([x] * bucket)
            for i, x in enumerate(prepared)
        ]
        inputs = {
            "latents": random(bucket, *grid),
            "timesteps": torch.linspace(10, 900, bucket, device=device),
            "visible": torch.ones(bucket, 1, device=device),
        }
        inputs |= dict(zip(names, rows, strict=True))
        made.append(Graph("denoise", bucket, DenoiseGraph(sampler).eval(), inputs, ("noise",)))
        latents = {"latents": random(bucket, *grid)}
        made.append(Graph("decode", bucket, DecodeGraph(sampler).eval(), latents, ("pixels",)))
    return made


def sampler_graphs(
    sampler: PictureSampler, config: MMInterleavedConfig, buckets: Sequence[int]
) -> list[Graph]:
    """All graphs of an image decoder."""
    num_features = sum(side * side for side in config.vision.map_sizes)
    return graphs(sampler, num_features, config.image_embed_dim, buckets)
