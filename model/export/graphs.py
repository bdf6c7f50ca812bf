"""The image decoder as plain graphs: named tensors in, named tensors out, static shapes.

Legend: B images of a bucket, N rows (2B: negative half first), T image tokens, D width, V
positions of the preceding image's maps, C latent channels, H, W latent grid, S pixels.

`prepare` runs once per image, `denoise` at every step for a bucket of images, `decode` at the
end. Unguided images run through the guided graph too, and its negative half is discarded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.image_decoder.sampler import ImageSampler, decode, initial_noise
from model.image_decoder.unet.conditions import Conditions
from model.image_decoder.unet.step import UNetStep

GraphName = Literal["prepare", "denoise", "decode"]


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
        """Key in the manifest, and stem of the file."""
        return f"{self.name}-{self.bucket}"


class _StepGraph(nn.Module):
    """Registers the modules of a U-Net step, so that their weights are exported."""

    def __init__(self, sampler: ImageSampler) -> None:
        super().__init__()
        self.unet, self.synchronizer = sampler.unet, sampler.synchronizer
        self.step = UNetStep(sampler.unet, sampler.synchronizer, sampler.guide_maps)
        self.negative = sampler.negative


class PrepareGraph(_StepGraph):
    """Image tokens and maps to what all steps share."""

    def forward(self, image_tokens_BTD: Tensor, features_B1VD: Tensor) -> tuple[Tensor, ...]:
        """Keys, values, canvas and maps, in the order of `condition_names`."""
        visible_B1 = features_B1VD.new_ones(features_B1VD.shape[0], 1)
        return self.step.prepare(image_tokens_BTD, features_B1VD, visible_B1).tensors


class DenoiseGraph(_StepGraph):
    """One evaluation of the U-Net."""

    def forward(
        self, latents_BCHW: Tensor, timesteps_B: Tensor, visible_B1: Tensor, *conditions: Tensor
    ) -> Tensor:
        """Noise [N, C, H, W] in float32."""
        joined = Conditions.of(conditions, self.negative, visible_B1)
        return self.step.predict(latents_BCHW.to(self.unet.dtype), timesteps_B, joined).float()


class DecodeGraph(nn.Module):
    """Latents to pixels."""

    def __init__(self, sampler: ImageSampler) -> None:
        super().__init__()
        self.vae = sampler.vae

    def forward(self, latents_BCHW: Tensor) -> Tensor:
        """Images [B, 3, S, S] in [0, 1]."""
        return decode(self.vae, latents_BCHW)


def condition_names(sampler: ImageSampler) -> tuple[str, ...]:
    """Names of the tensors between `prepare` and `denoise`."""
    num_cross = len(sampler.negative.keys)
    num_blocks = len(sampler.synchronizer.blocks) if sampler.synchronizer else 0
    return (
        *(f"keys_{i}" for i in range(num_cross)),
        *(f"values_{i}" for i in range(num_cross)),
        *(f"canvas_{i}" for i in range(len(sampler.negative.canvas))),
        *(f"maps_{i}" for i in range(num_blocks)),
    )


@torch.no_grad()
def sampler_graphs(
    sampler: ImageSampler, config: MMInterleavedConfig, buckets: Sequence[int]
) -> list[Graph]:
    """All graphs of an image decoder: `prepare` for one image, the others for every bucket.

    Args:
        sampler: the networks, with `GridSampling`.
        config: of the model.
        buckets: numbers of images.
    """
    generator = torch.Generator().manual_seed(0)
    prepare = _prepare_graph(sampler, config, generator)
    tensors = prepare.module(*prepare.inputs.values())
    visible_11 = torch.ones(1, 1, device=sampler.unet.device)
    prepared = Conditions.of(tensors, sampler.negative, visible_11)
    return [prepare, *_bucket_graphs(sampler, prepared, buckets, generator)]


def _prepare_graph(
    sampler: ImageSampler, config: MMInterleavedConfig, generator: torch.Generator
) -> Graph:
    dtype, device = sampler.unet.dtype, sampler.unet.device
    perceiver = sampler.config.perceiver
    num_features = sum(side * side for side in config.vision.map_sizes)
    tokens_1TD = torch.randn(1, perceiver.num_queries, perceiver.hidden_size, generator=generator)
    features_11VD = torch.randn(1, 1, num_features, config.image_embed_dim, generator=generator)
    inputs = {
        "image_tokens": tokens_1TD.to(device, dtype),
        "features": features_11VD.to(device, dtype),
    }
    return Graph("prepare", 1, PrepareGraph(sampler).eval(), inputs, condition_names(sampler))


def _bucket_graphs(
    sampler: ImageSampler,
    prepared: Conditions,
    buckets: Sequence[int],
    generator: torch.Generator,
) -> Iterator[Graph]:
    """The graphs of every bucket, with one image's conditions in all places."""
    config, device, names = sampler.config, sampler.unet.device, condition_names(sampler)
    for bucket in buckets:
        joined = sampler.join([prepared] * bucket, guided=True)
        inputs = {
            "latents": initial_noise(config, generator, bucket).to(device),
            "timesteps": torch.linspace(10, 900, bucket, device=device),
            "visible": joined.visible,
            **dict(zip(names, joined.tensors, strict=True)),
        }
        yield Graph("denoise", bucket, DenoiseGraph(sampler).eval(), inputs, ("noise",))
        latents = {"latents": initial_noise(config, generator, bucket).to(device)}
        yield Graph("decode", bucket, DecodeGraph(sampler).eval(), latents, ("pixels",))
