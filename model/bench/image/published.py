"""The published algorithm on our weights: the baseline of `mmi bench image`.

Legend: B images, N rows (both guidance halves), I conditioning images (1), V positions of their
maps, L positions of a skip, C channels, T image tokens, D width, S maps, H heads, P points.

The published code builds a diffusers pipeline at every call. Each step evaluates diffusers' own
U-Net blocks on both guidance halves from the first layer on and computes the keys and values of
the image tokens again. Every synchronizer block normalises and projects the conditioning maps of
both halves, then samples them by deformable attention in plain PyTorch: one `grid_sample` a map,
all samples in memory, then weighted and summed. The plain autoencoder decodes the images. Requests
are served one after the other, or as whole batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from model.bench.image.load import ImageLoad
from model.checkpoint import load
from model.image_decoder.image_decoder import ImageDecoder
from model.image_decoder.sampler import decode, guide, initial_noise
from model.image_decoder.schedule import Schedule, Trajectory, advance, make_scheduler
from model.mm_interleaved import IMAGE
from model.sampling_params import ImageParams
from model.synchronizer.deformable_attention import grid_centers
from model.synchronizer.unet_synchronizer import SynchronizerBlock

_ABSENT = ("text_encoder", "tokenizer", "feature_extractor", "image_encoder", "safety_checker")


class PublishedImages:
    """The published algorithm behind a queue."""

    def __init__(self, checkpoint: Path, directory: Path) -> None:
        """Load the weights, and write to `directory` what every published call reads again."""
        model = load.load_model(checkpoint, IMAGE)
        assert model.image_decoder is not None
        self.decoder, self.directory = model.image_decoder, directory
        save_pipeline(self.decoder, directory)

    async def serve(
        self, requests: ImageLoad, features_1IVD: Tensor, largest_batch: int
    ) -> list[float]:
        """Latencies in seconds when all waiting requests, up to a number, form one batch."""
        waiting: list[int] = []
        busy = asyncio.Lock()

        async def one(index: int) -> None:
            waiting.append(index)
            async with busy:
                if index not in waiting:
                    return  # It was served in an earlier one's batch.
                batch = waiting[:largest_batch]
                await asyncio.to_thread(
                    published_images,
                    self.decoder,
                    self.directory,
                    requests.tokens[batch],
                    features_1IVD.expand(len(batch), -1, -1, -1),
                    [requests.sampling(i) for i in batch],
                )
                del waiting[: len(batch)]

        return await requests.latencies_s(one)


def save_pipeline(decoder: ImageDecoder, directory: Path) -> None:
    """Write the scheduler and the autoencoder, which every call of the published code reads again.

    It also reads a text encoder that it never uses; our weights have none.
    """
    pipeline = StableDiffusionPipeline(
        decoder.decoder.vae,
        None,
        None,
        decoder.decoder.unet,
        _scheduler(decoder),
        None,
        None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(directory)


def rebuild_pipeline(decoder: ImageDecoder, directory: Path) -> StableDiffusionPipeline:
    """The pipeline of one call, around the loaded U-Net and scheduler."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        directory,
        unet=decoder.decoder.unet,
        scheduler=_scheduler(decoder),
        **dict.fromkeys(_ABSENT),
        requires_safety_checker=False,
        local_files_only=True,
    )
    pipeline.vae = pipeline.vae.float()
    return pipeline


def _scheduler(decoder: ImageDecoder) -> DDPMScheduler:
    """The noise schedule of the checkpoint, with the options that the pipeline expects."""
    scheduler = make_scheduler("ddpm", decoder.config.scheduler, 1)
    assert isinstance(scheduler, DDPMScheduler)
    # Without these the pipeline corrects them itself and warns at every call.
    scheduler.register_to_config(clip_sample=False, steps_offset=1)
    return scheduler


@torch.no_grad()
def published_step(
    decoder: ImageDecoder,
    latents_BCHW: Tensor,
    timesteps_B: Tensor,
    tokens_BTD: Tensor,
    features_BIVD: Tensor,
) -> Tensor:
    """One guided evaluation as published: [N, C, H, W]."""
    unet: UNet2DConditionModel = decoder.decoder.unet
    num = len(latents_BCHW)
    tokens_NTD = torch.cat((decoder.neg_prompt_embeds.expand(num, -1, -1), tokens_BTD))
    features_NIVD = torch.cat((features_BIVD, features_BIVD))
    sample = torch.cat((latents_BCHW, latents_BCHW))
    emb_NE = unet.time_embedding(unet.time_proj(timesteps_B.repeat(2)).to(sample.dtype))
    sample = unet.conv_in(sample)
    skips: tuple[Tensor, ...] = (sample,)
    for block in unet.down_blocks:
        sample, more = block(sample, emb_NE, **_condition(block, tokens_NTD))
        skips += more
    sample = unet.mid_block(sample, emb_NE, encoder_hidden_states=tokens_NTD)
    blocks = decoder.decoder.mmfs_module
    if blocks is not None:
        *added, middle = (
            x + published_residual(block, x, features_NIVD)
            for block, x in zip(blocks.blocks, (*skips, sample), strict=True)
        )
        sample, skips = middle, tuple(added)
    for block in unet.up_blocks:
        taken, skips = skips[-len(block.resnets) :], skips[: -len(block.resnets)]
        size = skips[-1].shape[2:] if skips else None
        sample = block(sample, taken, emb_NE, upsample_size=size, **_condition(block, tokens_NTD))
    prediction: Tensor = unet.conv_out(unet.conv_act(unet.conv_norm_out(sample)))
    return prediction


def _condition(block: torch.nn.Module, tokens_NTD: Tensor) -> dict[str, Tensor]:
    """The keyword arguments of a block: blocks without cross-attention take no condition."""
    crosses = getattr(block, "has_cross_attention", False)
    return {"encoder_hidden_states": tokens_NTD} if crosses else {}


def published_residual(
    block: SynchronizerBlock, sample_NCHW: Tensor, features_NIVD: Tensor
) -> Tensor:
    """The residual that a skip gets from one visible image, computed as published."""
    mmfs = block.mmfs
    H, S, P = mmfs.n_heads, len(mmfs.spatial_shapes), mmfs.n_points
    values_NVHd = mmfs.project(block.feat_norm(features_NIVD)).flatten(1, 2)
    query_NLC = mmfs.dynamic_offset_mask(block.queries(sample_NCHW)) + mmfs.query_relpos.weight[1]
    offsets_NLHP2 = mmfs.sampling_offsets(query_NLC).unflatten(-1, (H, 1, P, 2))
    sides_S = query_NLC.new_tensor(mmfs.spatial_shapes)
    # Offsets are predicted in cells of the base map, scaled to the cells of each map, and divided
    # by its side.
    cells_NLHSP2 = offsets_NLHP2 * (sides_S / mmfs.base_spatial_shape).view(-1, 1, 1)
    grid = [(sample_NCHW.shape[2], sample_NCHW.shape[3])]
    reference_L2 = grid_centers(grid)[0].to(query_NLC.device)
    places_NLHSP2 = reference_L2.view(-1, 1, 1, 1, 2) + cells_NLHSP2 / sides_S.view(-1, 1, 1)
    logits_NLHSP = mmfs.attention_weights(query_NLC).unflatten(-1, (H, S, P + 1))
    # Every map has a slot for the ignore token; together they weigh as much as one logit of 0.
    logits_NLHSP[..., -1] = -torch.tensor(float(S)).log()
    weights_NLHSP = logits_NLHSP.flatten(3).softmax(-1).view_as(logits_NLHSP)
    ignore_Hd = mmfs.ignore_token.view(H, -1)
    ignored_NLHd = (weights_NLHSP[..., -1:] * ignore_Hd[:, None]).sum(3)
    sampled_NLD = published_samples(
        values_NVHd, mmfs.spatial_shapes, places_NLHSP2, weights_NLHSP[..., :-1]
    )
    out_NLC = mmfs.output_proj(sampled_NLD + ignored_NLHd.flatten(2))
    residual: Tensor = block.conv(out_NLC.transpose(1, 2).reshape(sample_NCHW.shape))
    return residual


def published_samples(
    values_NVHd: Tensor, sides: Sequence[int], places_NLHSP2: Tensor, weights_NLHSP: Tensor
) -> Tensor:
    """Deformable attention in plain PyTorch, all samples in memory at once: [N, L, H * d]."""
    N, _, H, d = values_NVHd.shape
    L = places_NLHSP2.shape[1]
    grids = (2 * places_NLHSP2 - 1).to(values_NVHd.dtype)
    samples = []
    for level, plane_NVHd in enumerate(values_NVHd.split([side**2 for side in sides], dim=1)):
        plane = plane_NVHd.flatten(2).transpose(1, 2).reshape(N * H, d, sides[level], -1)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        samples.append(F.grid_sample(plane, grid, align_corners=False))
    weights = weights_NLHSP.transpose(1, 2).reshape(N * H, 1, L, -1)
    summed = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1).view(N, H * d, L)
    return summed.transpose(1, 2).contiguous()


@torch.no_grad()
def published_images(
    decoder: ImageDecoder,
    directory: Path,
    tokens_BTD: Tensor,
    features_BIVD: Tensor,
    sampling: Sequence[ImageParams],
) -> Tensor:
    """Images [B, 3, S, S] in [0, 1] of a batch that goes through all steps together."""
    config, first = decoder.config, sampling[0]
    pipeline = rebuild_pipeline(decoder, directory)
    generators = [torch.Generator().manual_seed(one.seed) for one in sampling]
    noise_BCHW = torch.cat([initial_noise(config, generator) for generator in generators])
    schedule = Schedule.of(first.scheduler, config.scheduler, first.num_inference_steps)
    trajectory = Trajectory(schedule, noise_BCHW, generators[0])
    scale_B = torch.tensor([config.guidance_of(one.guidance_scale) for one in sampling])
    while not trajectory.done:
        timesteps_B = trajectory.timestep.expand(len(noise_BCHW))
        prediction_NCHW = published_step(
            decoder, trajectory.latents, timesteps_B, tokens_BTD, features_BIVD
        )
        advance([trajectory], guide(prediction_NCHW, scale_B))
    return decode(pipeline.vae, trajectory.latents)
