"""The image decoder: context to image tokens, image tokens to an image.

Legend: B images, I conditioning images, L context length, T image tokens, V positions of the
maps, D width, C latent channels, H, W latent grid, S side of an image in pixels.

This module holds the parameters; `model.image_decoder.sampler` generates images from them, and
`model.training.losses` has the training loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.image_decoder import unet_step
from model.image_decoder.conditions import Invariants
from model.image_decoder.image_tokens import ImageTokenizer
from model.image_decoder.sampler import PictureSampler
from model.synchronizer.map_sampling import Sampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer, flatten_maps


class StableDiffusion(nn.Module):
    """U-Net, its synchronizer, and the autoencoder."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        self.config = config.image_decoder
        self.vae = AutoencoderKL(**_public(self.config.vae))
        self.vae.requires_grad_(False)
        self.unet = UNet2DConditionModel(**_public(self.config.unet))
        unet_step.check_supported(self.unet)
        self.mmfs_module = UNetSynchronizer(config) if config.synchronize_pictures else None

    def prepare(
        self, image_tokens_BTD: Tensor, maps: Sequence[Tensor], visible_BI: Tensor
    ) -> Invariants:
        """What all steps of these images share; `maps` are [B, I, D, s, s], finest first."""
        features_BIVD = flatten_maps(maps)
        return unet_step.prepare(
            self.unet, self.mmfs_module, image_tokens_BTD, features_BIVD, visible_BI
        )

    def denoise(self, latents_BCHW: Tensor, timesteps_B: Tensor, invariants: Invariants) -> Tensor:
        """Predict noise, a row for every row of the invariants' keys."""
        return unet_step.denoise(self.unet, self.mmfs_module, latents_BCHW, timesteps_B, invariants)

    def encode(self, pixels_B3SS: Tensor, posterior_noise_BCHW: Tensor) -> Tensor:
        """Latents of images in [0, 1], drawn from the autoencoder's posterior."""
        with torch.no_grad():
            posterior = self.vae.encode(pixels_B3SS.float() * 2 - 1).latent_dist
            latents: Tensor = posterior.mean + posterior.std * posterior_noise_BCHW
        scaled: Tensor = (latents * self.vae.config.scaling_factor).to(pixels_B3SS.dtype)
        return scaled


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

    def sampler(self, sampling: Sampling | None = None) -> PictureSampler:
        """The decoder for inference, with its weights as they are now (they get folded).

        Args:
            sampling: how maps are read; the fastest for the device if None.
        """
        return PictureSampler(self.decoder, self.neg_prompt_embeds, self.config, sampling)

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
        """Draw an image for every context: [B, 3, S, S] in [0, 1], as the published loop does.

        One generator serves the whole batch: first all initial latents, then all noise per step.
        """
        sampler = self.sampler()
        tokens_BTD = self.image_tokens(context_features_BLD, attention_mask_BL)
        invariants = sampler.prepare(tokens_BTD, maps, visible_BI)
        generator = torch.Generator().manual_seed(self.config.base_seed if seed is None else seed)
        latents = sampler.denoise(
            sampler.initial_latents(len(tokens_BTD), generator),
            sampler.batch([invariants], guided=guidance_scale > 1),
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
