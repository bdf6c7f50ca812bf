"""What `mmi bench image` compares with: the published algorithm, on the same weights.

Legend: B pictures, N rows (both guidance halves), I conditioning images (1), V positions of their
maps, L positions of a skip, C channels, T image tokens, D width.

Every step projects the conditioning maps anew in each of the synchronizer's blocks, for both
guidance halves; computes the image tokens' keys and values anew; and evaluates both halves from the
first layer on. Requests are served one after the other, or as whole batches.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from model import denoiser
from model.deformable_attention import grid_centers
from model.engine.protocol import ImageSampling
from model.image_decoder import ImageDecoder
from model.map_sampling import GridSampling, SamplingShape
from model.sampler import guide, make_scheduler, scheduler_step
from model.unet_synchronizer import SynchronizerBlock


class PublishedBlock:
    """A synchronizer block with nothing folded and nothing kept."""

    def __init__(self, block: SynchronizerBlock) -> None:
        self.block = block
        self.sampling = GridSampling()

    def attend(self, sample_NCHW: Tensor, features_NIVD: Tensor, visible_NI: Tensor) -> Tensor:
        """The residual of a skip, from raw features."""
        block, mmfs = self.block, self.block.mmfs
        H, S, P = mmfs.n_heads, len(mmfs.spatial_shapes), mmfs.n_points
        query_NLC = mmfs.dynamic_offset_mask(block.queries(sample_NCHW))
        query_NLC = query_NLC + mmfs.query_relpos.weight[1]
        logits = mmfs.attention_weights(query_NLC).unflatten(-1, (H, S, P + 1))[..., :P]
        predicted = torch.cat((mmfs.sampling_offsets(query_NLC), logits.flatten(2)), dim=-1)
        values_NVHd = mmfs.project(block.feat_norm(features_NIVD))[:, 0]
        sampled_NLD = self.sampling.sample(
            SamplingShape(H, P, mmfs.spatial_shapes, mmfs.base_spatial_shape),
            self.sampling.arrange(values_NVHd),
            predicted,
            grid_centers([(sample_NCHW.shape[2], sample_NCHW.shape[3])])[0].to(query_NLC.device),
            visible_NI[:, 0],
            mmfs.ignore_token.view(H, -1),
        )
        out_NLC = mmfs.output_proj(sampled_NLD)
        residual: Tensor = block.conv(out_NLC.transpose(1, 2).reshape(sample_NCHW.shape))
        return residual


class PublishedSynchronizer:
    """All blocks; `project` hands the features through, so that every step projects them."""

    def __init__(self, decoder: ImageDecoder) -> None:
        self.blocks = [PublishedBlock(block) for block in decoder.decoder.mmfs_module.blocks]

    def project(self, features_BIVD: Tensor) -> tuple[Tensor, ...]:
        """The features, for each block."""
        return (features_BIVD,) * len(self.blocks)


@torch.no_grad()
def published_step(
    decoder: ImageDecoder,
    latents_BCHW: Tensor,
    timestep: Tensor,
    tokens_BTD: Tensor,
    features_BIVD: Tensor,
) -> Tensor:
    """One guided evaluation as published: [N, C, H, W]."""
    unet: UNet2DConditionModel = decoder.decoder.unet
    num = len(latents_BCHW)
    rows = torch.cat((decoder.neg_prompt_embeds.expand(num, -1, -1), tokens_BTD))
    features_NIVD = torch.cat((features_BIVD, features_BIVD))
    visible_NI = features_NIVD.new_ones(2 * num, 1)
    synchronizer = PublishedSynchronizer(decoder)
    invariants = denoiser.prepare(unet, synchronizer, rows, features_NIVD, visible_NI)
    return denoiser.denoise(
        unet,
        synchronizer,
        torch.cat((latents_BCHW, latents_BCHW)),
        timestep.expand(2 * num),
        invariants,
    )


@torch.no_grad()
def published_pictures(
    decoder: ImageDecoder,
    tokens_BTD: Tensor,
    features_BIVD: Tensor,
    sampling: Sequence[ImageSampling],
) -> Tensor:
    """Pictures [B, 3, S, S] of a batch that goes through all steps together."""
    config, first = decoder.config, sampling[0]
    generators = [torch.Generator().manual_seed(one.seed) for one in sampling]
    shape = (1, int(config.unet["in_channels"]), config.latent_size, config.latent_size)
    latents = torch.cat([torch.randn(shape, generator=generator) for generator in generators])
    latents = latents.to(tokens_BTD)
    scheduler = make_scheduler(first.scheduler, config.scheduler, first.num_inference_steps)
    scale_B = latents.new_tensor([one.guidance_scale for one in sampling])
    for timestep in scheduler.timesteps:
        prediction = published_step(decoder, latents, timestep, tokens_BTD, features_BIVD)
        prediction = guide(prediction, scale_B, torch.zeros_like(scale_B))
        latents = scheduler_step(scheduler, prediction, timestep, latents, generators[0])
    pixels: Tensor = decoder.decoder.vae.decode(
        latents / decoder.config.vae["scaling_factor"]
    ).sample
    return (pixels / 2 + 0.5).clamp(0, 1)
