"""The image decoder: context to image tokens, image tokens to an image.

Legend: B images, I conditioning images, L context length, T image tokens, V positions of the
maps, D width, C latent channels, H, W latent grid, S side of an image in pixels.

This module holds the parameters; `model.image_decoder.sampler` generates images from them, and
`model.training.objectives.losses` has the training loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_tokens import ImageTokenizer
from model.image_decoder.sampler import ImageSampler, encode, initial_noise
from model.image_decoder.unet.step import UNetStep, check_supported
from model.image_decoder.unet.token_grid import know_places
from model.synchronizer.maps import MapSampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer, flatten_maps


class StableDiffusion(nn.Module):
    """U-Net, its synchronizer, and the autoencoder."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        self.config = config.image_decoder
        self.vae = AutoencoderKL(**_public(self.config.vae))
        self.vae.requires_grad_(False)
        self.unet = UNet2DConditionModel(**_public(self.config.unet))
        check_supported(self.unet)
        if self.config.token_grid:
            know_places(self.unet, self.config.perceiver.num_queries)
        self.mmfs_module = UNetSynchronizer(config) if config.synchronize_pictures else None

    @property
    def step(self) -> UNetStep:
        """The U-Net for training, whose synchronizer is not folded and has gradients."""
        return UNetStep(self.unet, self.mmfs_module)

    @torch.no_grad()
    def encode(self, pixels_B3SS: Tensor, posterior_noise_BCHW: Tensor) -> Tensor:
        """Latents of images in [0, 1], sampled from the autoencoder's posterior."""
        return encode(self.vae, pixels_B3SS, posterior_noise_BCHW).to(pixels_B3SS.dtype)


class ImageDecoder(ImageTokenizer):
    """Perceiver and Stable Diffusion."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        perceiver = config.image_decoder.perceiver
        super().__init__(perceiver)
        self.config = config.image_decoder
        self.decoder = StableDiffusion(config)
        self.neg_prompt_embeds = nn.Parameter(
            torch.empty(1, perceiver.num_queries, perceiver.hidden_size)
        )
        nn.init.normal_(self.neg_prompt_embeds, std=0.02)

    def sampler(self, sampling: MapSampling | None = None) -> ImageSampler:
        """The decoder for inference, with its present weights folded.

        Args:
            sampling: how maps are read; by default the fastest for the device.
        """
        parts = self.decoder
        return ImageSampler(
            self.config, parts.unet, parts.vae, parts.mmfs_module, self.neg_prompt_embeds, sampling
        )

    @torch.no_grad()
    def generate_images(
        self,
        context_features_BLD: Tensor,
        attention_mask_BL: Tensor | None,
        maps: Sequence[Tensor],
        visible_BI: Tensor,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        scheduler: str = "ddpm",
        seed: int | None = None,
    ) -> Tensor:
        """Generate an image for every context, as published: [B, 3, S, S] in [0, 1].

        One generator serves the whole batch: first all initial latents, then all noise per step.
        """
        sampler = self.sampler()
        tokens_BTD = self.image_tokens(context_features_BLD, attention_mask_BL)
        conditions = sampler.prepare(tokens_BTD, flatten_maps(maps), visible_BI)
        generator = torch.Generator().manual_seed(self.config.base_seed if seed is None else seed)
        latents = sampler.denoise(
            initial_noise(self.config, generator, len(tokens_BTD)),
            sampler.join([conditions], guided=guidance_scale > 1),
            generator,
            num_inference_steps,
            guidance_scale,
            guidance_rescale,
            scheduler,
        )
        return sampler.decode(latents)


def _public(config: object) -> dict[str, object]:
    """A diffusers configuration without its private entries (`_class_name` and so on)."""
    assert isinstance(config, dict)
    return {key: value for key, value in config.items() if not key.startswith("_")}
