"""One evaluation of the U-Net gives the recorded numbers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from model.image_decoder.sampler import ImageSampler, initial_noise
from model.image_decoder.unet.conditions import Conditions
from model.image_decoder.unet.step import UNetStep, check_supported
from model.synchronizer.folding import FoldedBlock, FoldedSynchronizer
from tests.model import golden
from tests.model.image_decoder.recorded import unet_inputs


def test_one_step(sampler: ImageSampler, maps: tuple[Tensor, ...]) -> None:
    latents, timesteps, tokens, features, visible = unet_inputs(maps)
    prepared = sampler.prepare(tokens, features, visible)
    noise = sampler.predict(latents, timesteps, sampler.join([prepared], guided=False))
    golden.assert_close("noise", noise, golden.tensors("full_model")["out/unet_noise_pred"], 1e-4)


def test_one_step_without_synchronizer(sampler: ImageSampler, maps: tuple[Tensor, ...]) -> None:
    latents, timesteps, tokens, _, visible = unet_inputs(maps)
    step = UNetStep(sampler.unet, None)
    noise = step.predict(
        latents, timesteps, step.prepare(tokens, tokens.new_zeros(len(tokens), 0), visible)
    )
    expected = golden.tensors("full_model")["out/unet_noise_pred_no_mmfs"]
    golden.assert_close("noise", noise, expected, 1e-4)


class Recording:
    """A synchronizer whose samples and residuals are noted."""

    def __init__(self, synchronizer: FoldedSynchronizer) -> None:
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.project = synchronizer.project
        self.blocks = [RecordingBlock(block, self.calls) for block in synchronizer.blocks]


class RecordingBlock:
    def __init__(self, block: FoldedBlock, calls: list[tuple[Tensor, Tensor]]) -> None:
        self.block, self.calls = block, calls

    def attend(self, sample: Tensor, values: Tensor, visible: Tensor) -> Tensor:
        residual = self.block.attend(sample, values, visible)
        self.calls.append((sample, residual))
        return residual


def test_residuals_of_every_block(sampler: ImageSampler, maps: tuple[Tensor, ...]) -> None:
    full = golden.tensors("full_model")
    latents, timesteps, tokens, features, visible = unet_inputs(maps)
    prepared = sampler.prepare(tokens, features, visible)
    recording = Recording(sampler.synchronizer)
    UNetStep(sampler.unet, recording).predict(latents, timesteps, prepared)
    samples, residuals = zip(*recording.calls, strict=True)
    golden.assert_close("middle before", samples[-1], full["out/unet_mid_before_mmfs"], 1e-4)
    after = samples[-1] + residuals[-1]
    golden.assert_close("middle after", after, full["out/unet_mid_after_mmfs"], 1e-4)
    recorded = golden.part(full, "out/unet_down")
    assert len(residuals) == len(recorded) + 1
    for index, residual in enumerate(residuals[:-1]):
        golden.assert_recorded(f"{index:02}_mmfs_residual", residual, recorded, 1e-4)


def test_guidance_halves_share_what_they_can(sampler: ImageSampler) -> None:
    """One walk over both halves equals a walk for each."""
    config, perceiver = golden.config(), golden.config().image_decoder.perceiver
    generator = torch.Generator().manual_seed(5)
    latents = initial_noise(config.image_decoder, generator, 2)
    tokens = torch.randn(2, perceiver.num_queries, perceiver.hidden_size, generator=generator)
    num_features = sum(side * side for side in config.vision.map_sizes)
    features = torch.randn(2, 1, num_features, config.image_embed_dim, generator=generator)
    timesteps, visible = torch.tensor([700, 3]), torch.tensor([[1], [0]])
    prepared = sampler.prepare(tokens, features, visible)
    both = sampler.predict(latents, timesteps, sampler.join([prepared], guided=True))
    negative = Conditions.stack([dataclasses.replace(sampler.negative, visible=visible[:1])] * 2)
    negative = dataclasses.replace(negative, maps=prepared.maps, visible=prepared.visible)
    alone = [sampler.predict(latents, timesteps, half) for half in (negative, prepared)]
    golden.assert_close("halves", both, torch.cat(alone), 2e-5)


def test_the_negative_half_can_see_no_image(
    sampler: ImageSampler, maps: tuple[Tensor, ...]
) -> None:
    latents, timesteps, tokens, features, _ = unet_inputs(maps)
    visible = torch.ones(len(tokens), 1)
    visible[-1] = 0
    prepared = sampler.prepare(tokens, features, visible)
    joined = sampler.join([prepared], guided=True)
    seeing, positive = sampler.predict(latents, timesteps, joined).chunk(2)
    hidden = dataclasses.replace(joined, visible=torch.zeros_like(visible))
    blind, _ = sampler.predict(latents, timesteps, hidden).chunk(2)
    assert (blind - seeing)[0].abs().max() > 1e-3
    step = UNetStep(sampler.unet, sampler.synchronizer, guide_maps=True)
    both = step.predict(latents, timesteps, joined)
    golden.assert_close("halves", both, torch.cat((blind, positive)), 2e-5)
    alone = step.predict(latents, timesteps, prepared)
    golden.assert_close("unguided", alone, positive, 2e-5)


def test_unsupported_options_are_refused() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            block_out_channels=(32, 32),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            center_input_sample=True,
        )
    with pytest.raises(ValueError, match=r"unet\.center_input_sample=True"):
        check_supported(unet)
