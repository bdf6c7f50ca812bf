"""Drawing: image tokens and the preceding image's maps become an image.

Legend: B images, N rows (2B with guidance: negative half first), T image tokens, D width, C latent
channels, H, W latent grid, S side of an image in pixels.

Three stages without side effects: `prepare` what never changes, `denoise` step by step, `decode`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor

from model.config.schema import ImageDecoderConfig
from model.image_decoder import unet_step
from model.image_decoder.conditions import Invariants
from model.image_decoder.schedulers import guide, make_scheduler, scheduler_step
from model.synchronizer.folding import FoldedSynchronizer
from model.synchronizer.map_sampling import Sampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer, flatten_maps


class PictureSampler:
    """The image decoder for inference. Weights are those of its creation: they get folded."""

    @torch.no_grad()
    def __init__(
        self,
        decoder: Any,
        neg_prompt_embeds_1TD: Tensor,
        config: ImageDecoderConfig,
        sampling: Sampling | None = None,
    ) -> None:
        """Fold the weights of a `StableDiffusion`."""
        self.config = config
        self.unet: UNet2DConditionModel = decoder.unet
        self.vae: AutoencoderKL = decoder.vae
        synchronizer: UNetSynchronizer | None = decoder.mmfs_module
        self.synchronizer = FoldedSynchronizer(synchronizer, sampling) if synchronizer else None
        none = neg_prompt_embeds_1TD.new_zeros(1, 0)
        # The same for every image, so computed here.
        self.negative = unet_step.prepare(self.unet, None, neg_prompt_embeds_1TD, none, none)

    @torch.no_grad()
    def prepare(
        self, image_tokens_BTD: Tensor, maps: Sequence[Tensor], visible_B1: Tensor
    ) -> Invariants:
        """Stage one: what all steps share.

        Args:
            image_tokens_BTD: the condition.
            maps: of the preceding image, [B, 1, D, s, s], finest first.
            visible_B1: whether there is a preceding image.
        """
        return self.prepare_features(image_tokens_BTD, flatten_maps(maps), visible_B1)

    @torch.no_grad()
    def prepare_features(
        self, image_tokens_BTD: Tensor, features_B1VD: Tensor, visible_B1: Tensor
    ) -> Invariants:
        """`prepare` for maps that are already flattened to positions."""
        return unet_step.prepare(
            self.unet, self.synchronizer, image_tokens_BTD, features_B1VD, visible_B1
        )

    def batch(self, images: Sequence[Invariants], guided: bool) -> Invariants:
        """Join prepared images to one batch, with the negative half in front if `guided`."""
        return Invariants.stack(images, self.negative if guided else None)

    @torch.no_grad()
    def predict(self, latents_BCHW: Tensor, timesteps_B: Tensor, invariants: Invariants) -> Tensor:
        """One evaluation of the U-Net: [N, C, H, W]."""
        return unet_step.denoise(
            self.unet, self.synchronizer, latents_BCHW, timesteps_B, invariants
        )

    def denoise(
        self,
        latents_BCHW: Tensor,
        invariants: Invariants,
        generator: torch.Generator,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        scheduler: str = "ddpm",
    ) -> Tensor:
        """Stage two: from noise to clean latents, all images in step."""
        steps = make_scheduler(scheduler, self.config.scheduler, num_inference_steps)
        num = latents_BCHW.shape[0]
        scale_B = latents_BCHW.new_full((num,), guidance_scale)
        rescale_B = latents_BCHW.new_full((num,), guidance_rescale)
        for timestep in steps.timesteps:
            prediction = self.predict(latents_BCHW, timestep.expand(num), invariants)
            if prediction.shape[0] != num:
                prediction = guide(prediction, scale_B, rescale_B)
            latents_BCHW = scheduler_step(steps, prediction, timestep, latents_BCHW, generator)
        return latents_BCHW

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Stage three: images [B, 3, S, S] in [0, 1], float32 whatever the U-Net's type."""
        latents = latents_BCHW.float() / self.config.vae["scaling_factor"]
        pixels: Tensor = self.vae.decode(latents, return_dict=False)[0]
        return (pixels / 2 + 0.5).clamp(0, 1).float()

    def initial_latents(
        self, num: int, generator: torch.Generator, size: tuple[int, int] | None = None
    ) -> Tensor:
        """Normal latents, drawn on the CPU, so that a seed means the same on every device."""
        height, width = size or (self.config.latent_size,) * 2
        shape = (num, int(self.config.unet["in_channels"]), height, width)
        latents = torch.randn(shape, generator=generator)
        return latents.to(self.unet.device, self.unet.dtype)
