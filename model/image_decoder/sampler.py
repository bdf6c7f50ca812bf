"""From image tokens and the preceding image's maps to an image, in three stages.

`prepare` computes what all steps share, `denoise` goes from noise to clean latents, `decode` makes
pixels of them. Offline generation, the image engine and the exported graphs use the same parts:
`initial_noise`, `Trajectory` and `advance` (in `schedule.py`), `guide` and `decode`. The engine
advances many trajectories by one evaluation of the U-Net.

Legend: B images, N rows (2B with guidance: negative half first), T image tokens, D width, C latent
channels, H, W latent grid, S side of an image in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import diffusers
import torch
from torch import Tensor

from model.config.schema import ImageDecoderConfig
from model.image_decoder.schedule import Schedule, Trajectory, advance
from model.image_decoder.unet.conditions import Conditions
from model.image_decoder.unet.step import UNetStep
from model.synchronizer.folding import FoldedSynchronizer
from model.synchronizer.maps import MapSampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer


def initial_noise(
    config: ImageDecoderConfig,
    generator: torch.Generator,
    num: int = 1,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Normal latents [B, C, H, W] in float32 on the CPU, so a seed means the same everywhere.

    Args:
        config: of the image decoder.
        generator: a CPU generator.
        num: images.
        size: latent grid (height, width); by default the checkpoint's.
    """
    shape = size or (config.latent_size, config.latent_size)
    return torch.randn((num, int(config.unet["in_channels"]), *shape), generator=generator)


def guide(prediction_NCHW: Tensor, scale_B: Tensor, rescale_B: Tensor | None = None) -> Tensor:
    """Classifier-free guidance, optionally with its contrast restored: [B, C, H, W].

    Args:
        prediction_NCHW: negative half, then positive half; returned as it is if there is one half.
        scale_B: guidance scale of every image.
        rescale_B: how much of the positive half's standard deviation to restore, 0 to 1
            (https://arxiv.org/abs/2305.08891, section 3.4); None for none of any image.
    """
    if len(prediction_NCHW) == len(scale_B):
        return prediction_NCHW
    negative, positive = prediction_NCHW.chunk(2)
    guided = negative + scale_B.view(-1, 1, 1, 1) * (positive - negative)
    if rescale_B is None:
        return guided
    ratio = positive.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
    return guided * (1 + rescale_B.view(-1, 1, 1, 1) * (ratio - 1))


def encode(
    vae: diffusers.AutoencoderKL, pixels_B3SS: Tensor, noise_BCHW: Tensor | None = None
) -> Tensor:
    """Latents of images in [0, 1]: a sample of the posterior, or its mean without noise."""
    posterior = vae.encode(pixels_B3SS.float() * 2 - 1).latent_dist
    latents = posterior.mean if noise_BCHW is None else posterior.mean + posterior.std * noise_BCHW
    return latents * vae.config.scaling_factor


def decode(vae: diffusers.AutoencoderKL, latents_BCHW: Tensor) -> Tensor:
    """Images [B, 3, S, S] in [0, 1], in float32 whatever the U-Net's type."""
    latents = latents_BCHW.float() / vae.config.scaling_factor
    pixels = vae.decode(latents, return_dict=False)[0]
    return (pixels / 2 + 0.5).clamp(0, 1).float()


class ImageSampler(UNetStep):
    """The image decoder for inference. It folds the weights that the decoder has at its creation.

    Stage one is `UNetStep.prepare`, with the maps as positions (`flatten_maps`).
    """

    @torch.no_grad()
    def __init__(
        self,
        config: ImageDecoderConfig,
        unet: diffusers.UNet2DConditionModel,
        vae: diffusers.AutoencoderKL,
        synchronizer: UNetSynchronizer | None,
        neg_prompt_embeds_1TD: Tensor,
        sampling: MapSampling | None = None,
    ) -> None:
        """Fold the synchronizer, which reads maps by `sampling`: by default the fastest here."""
        super().__init__(unet, None, config.guide_maps)
        self.config, self.vae = config, vae
        none = neg_prompt_embeds_1TD.new_zeros(1, 0)
        # The negative half of every image, which reads no maps of its own.
        self.negative = self.prepare(neg_prompt_embeds_1TD, none, none)
        if synchronizer is not None:
            self.synchronizer = FoldedSynchronizer(synchronizer, sampling)

    def join(self, images: Sequence[Conditions], guided: bool) -> Conditions:
        """The conditions of a batch, with the negative half in front if `guided`."""
        return Conditions.stack(images, self.negative if guided else None)

    @torch.no_grad()
    def denoise(
        self,
        noise_BCHW: Tensor,
        conditions: Conditions,
        generator: torch.Generator,
        num_inference_steps: int = 30,
        guidance_scale: float = 7.5,
        guidance_rescale: float = 0.0,
        scheduler: str = "ddpm",
    ) -> Tensor:
        """Stage two: clean latents [B, C, H, W] of images that take all steps together."""
        num, device = len(noise_BCHW), self.unet.device
        schedule = Schedule.of(scheduler, self.config.scheduler, num_inference_steps, device)
        trajectory = Trajectory(schedule, noise_BCHW, generator)
        scale_B = torch.full((num,), guidance_scale, device=device)
        rescale_B = torch.full_like(scale_B, guidance_rescale) if guidance_rescale > 0 else None
        while not trajectory.done:
            timesteps_B, latents_BCHW = trajectory.timestep.expand(num), trajectory.latents
            prediction_NCHW = self.predict(
                latents_BCHW.to(self.unet.dtype), timesteps_B, conditions
            )
            advance([trajectory], guide(prediction_NCHW.float(), scale_B, rescale_B))
        return trajectory.latents

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Stage three: images [B, 3, S, S] in [0, 1]."""
        return decode(self.vae, latents_BCHW)
