"""The image decoder: context to image tokens, image tokens to an image.

Legend: B images, I conditioning images, L context length, T image tokens, V positions of the
maps, D width, C latent channels, H, W latent grid, S side of an image in pixels.

Here are the parameters and the training loss; `model.image_decoder.sampler` draws.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from model.config.schema import ImageDecoderConfig, MMInterleavedConfig
from model.image_decoder import unet_step
from model.image_decoder.conditions import Invariants
from model.image_decoder.sampler import PictureSampler
from model.image_decoder.schedulers import make_scheduler
from model.synchronizer.map_sampling import Sampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer, flatten_maps
from model.visual_tokenizer.perceiver import PerceiverResampler


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


@dataclass(frozen=True)
class TrainingNoise:
    """The random numbers of one training step, drawn in this order.

    Attributes:
        uncond_B11: uniform; an image whose number is below the probability loses its condition.
        posterior_BCHW: normal, of the autoencoder's posterior.
        noise_BCHW: normal, what the U-Net shall find.
        timesteps_B: how much of it is added.
    """

    uncond_B11: Tensor
    posterior_BCHW: Tensor
    noise_BCHW: Tensor
    timesteps_B: Tensor

    @classmethod
    def draw(
        cls, num: int, config: ImageDecoderConfig, device: torch.device | None = None
    ) -> TrainingNoise:
        """Draw for `num` images from the global generator."""
        latent_channels, side = int(config.vae["latent_channels"]), config.latent_size
        shape = (num, latent_channels, side, side)
        # As in the published training: that noise was drawn in the memory layout of the latents,
        # which the autoencoder yields with the channels last, and this changes the numbers.
        channels_last = torch.empty(shape, device=device, memory_format=torch.channels_last)
        return cls(
            torch.rand(num, 1, 1, device=device),
            torch.randn(shape, device=device),
            channels_last.normal_(),
            torch.randint(0, int(config.scheduler["num_train_timesteps"]), (num,), device=device),
        )


class ImageDecoder(nn.Module):
    """Perceiver and Stable Diffusion."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        self.config = config.image_decoder
        perceiver = self.config.perceiver
        self.perceiver_resampler = PerceiverResampler(perceiver)
        self.decoder = StableDiffusion(config)
        self.neg_prompt_embeds = nn.Parameter(
            torch.empty(1, perceiver.num_queries, perceiver.hidden_size)
        )
        nn.init.normal_(self.neg_prompt_embeds, std=0.02)

    def image_tokens(
        self, context_features_BLD: Tensor, attention_mask_BL: Tensor | None
    ) -> Tensor:
        """The condition of the U-Net, [B, T, D], from the context before each image."""
        tokens: Tensor = self.perceiver_resampler(context_features_BLD, attention_mask_BL)
        return tokens

    def forward(
        self,
        pixels_B3SS: Tensor,
        context_features_BLD: Tensor,
        attention_mask_BL: Tensor,
        maps: Sequence[Tensor],
        visible_BI: Tensor,
        noise: TrainingNoise | None = None,
        image_loss_mask_B: Tensor | None = None,
        latents_BCHW: Tensor | None = None,
        emphasis_BHW: Tensor | None = None,
        tokens_BTD: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error of the predicted noise: the training loss.

        Args:
            pixels_B3SS: the images to learn, in [0, 1].
            context_features_BLD: context of each, soi first.
            attention_mask_BL: its extent. Images without any context before them do not count.
            maps: of the preceding image, [B, 1, D, s, s], finest first.
            visible_BI: whether there is a preceding image.
            noise: the random numbers; drawn if not given.
            image_loss_mask_B: which images count.
            latents_BCHW: ready latents of the images, in place of encoding them.
            emphasis_BHW: how much each place of the latents counts, of mean 1; all alike without.
            tokens_BTD: ready image tokens, in place of those of the context.
        """
        noise = noise or TrainingNoise.draw(len(pixels_B3SS), self.config, pixels_B3SS.device)
        if tokens_BTD is None:
            tokens_BTD = self.image_tokens(context_features_BLD, attention_mask_BL)
        dropped_B11 = noise.uncond_B11 < self.config.uncond_prob
        tokens_BTD = torch.where(dropped_B11, self.neg_prompt_embeds, tokens_BTD)
        if latents_BCHW is None:
            latents_BCHW = self.decoder.encode(pixels_B3SS, noise.posterior_BCHW)
        prediction, target = self.predict(latents_BCHW, tokens_BTD, maps, visible_BI, noise)
        error_BHW = F.mse_loss(prediction.float(), target.float(), reduction="none").mean(1)
        if emphasis_BHW is not None:
            error_BHW = error_BHW * emphasis_BHW
        error_B = error_BHW.mean((1, 2)) * (attention_mask_BL.sum(1) > 2)
        if image_loss_mask_B is not None:
            error_B = error_B * image_loss_mask_B
        return error_B.mean()

    def predict(
        self,
        latents_BCHW: Tensor,
        tokens_BTD: Tensor,
        maps: Sequence[Tensor],
        visible_BI: Tensor,
        noise: TrainingNoise,
    ) -> tuple[Tensor, Tensor]:
        """The U-Net's prediction on noised latents, and what it should have been."""
        schedule = make_scheduler("ddpm", self.config.scheduler, 1)
        assert isinstance(schedule, DDPMScheduler)
        noisy = schedule.add_noise(latents_BCHW, noise.noise_BCHW, noise.timesteps_B)
        invariants = self.decoder.prepare(tokens_BTD, maps, visible_BI)
        prediction = self.decoder.denoise(noisy, noise.timesteps_B, invariants)
        if self.config.scheduler.get("prediction_type") == "v_prediction":
            return prediction, schedule.get_velocity(
                latents_BCHW, noise.noise_BCHW, noise.timesteps_B
            )
        return prediction, noise.noise_BCHW

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
