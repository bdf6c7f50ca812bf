"""From image tokens and the preceding image's maps to an image, in three stages.

`prepare` computes what all steps share, `denoise` goes from noise to clean latents, `decode` makes
pixels of them. Offline generation, the image engine and the exported graphs use the same parts:
`initial_noise`, `Trajectory`, `guide` and `decode`. The engine advances many trajectories by one
evaluation of the U-Net.

Legend: B images, N rows (2B with guidance: negative half first), T image tokens, D width, C latent
channels, H, W latent grid, S side of an image in pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import diffusers
import torch
from torch import Tensor

from model.config.schema import ImageDecoderConfig
from model.image_decoder.conditions import Conditions
from model.image_decoder.unet_step import UNetStep
from model.synchronizer.folding import FoldedSynchronizer
from model.synchronizer.maps import MapSampling
from model.synchronizer.unet_synchronizer import UNetSynchronizer

SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
# The published sampler never clips its prediction of the clean latents.
_FIXED = {"clip_sample": False}


class Scheduler(Protocol):
    """The used part of a diffusers scheduler."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: float
    config: Any

    def set_timesteps(self, num_inference_steps: int) -> None: ...

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any
    ) -> Any: ...


def make_scheduler(name: str, config: Mapping[str, Any], num_inference_steps: int) -> Scheduler:
    """A new scheduler on the noise schedule of the checkpoint.

    Raises:
        ValueError: there is no scheduler of that name, or the step count is out of its range.
    """
    try:
        kind = SCHEDULERS[name]
    except KeyError:
        raise ValueError(f"unknown scheduler {name!r}; known: {', '.join(SCHEDULERS)}") from None
    if not 1 <= num_inference_steps <= int(config.get("num_train_timesteps", 1000)):
        raise ValueError(f"num_inference_steps={num_inference_steps} is out of range")
    accepted = set(inspect.signature(kind).parameters)
    options = {key: value for key, value in {**config, **_FIXED}.items() if key in accepted}
    scheduler = cast(Scheduler, kind(**options))
    scheduler.set_timesteps(num_inference_steps)
    return scheduler


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


class Trajectory:
    """The way of latents from noise to an image: their scheduler, their random numbers, their step.

    Schedulers of higher order keep state, so images that are not always evaluated together each
    need a trajectory of their own.
    """

    def __init__(
        self,
        schedule: Mapping[str, Any],
        scheduler: str,
        num_inference_steps: int,
        noise_BCHW: Tensor,
        generator: torch.Generator,
    ) -> None:
        """Start at noise.

        Args:
            schedule: noise schedule of the checkpoint.
            scheduler: name in `SCHEDULERS`.
            num_inference_steps: steps.
            noise_BCHW: from `initial_noise`.
            generator: draws the noise of each step, for schedulers that add some.

        Raises:
            ValueError: see `make_scheduler`.
        """
        self.scheduler = make_scheduler(scheduler, schedule, num_inference_steps)
        self.latents = noise_BCHW * float(self.scheduler.init_noise_sigma)
        self.step = 0
        self._generator = generator

    @property
    def num_steps(self) -> int:
        return len(self.scheduler.timesteps)

    @property
    def done(self) -> bool:
        return self.step >= self.num_steps

    @property
    def timestep(self) -> Tensor:
        """Timestep of the next step, a scalar."""
        return self.scheduler.timesteps[self.step]

    def advance(self, prediction_BCHW: Tensor) -> None:
        """Take one step with the guided prediction."""
        noisy = isinstance(self.scheduler, diffusers.DDPMScheduler)
        options = {"generator": self._generator} if noisy else {}
        self.latents = self.scheduler.step(
            prediction_BCHW, self.timestep, self.latents, return_dict=False, **options
        )[0]
        self.step += 1

    def clean_latents(self, prediction_BCHW: Tensor) -> Tensor:
        """The clean latents that the guided prediction of the next step implies."""
        alpha = float(self.scheduler.alphas_cumprod[int(self.timestep)])
        signal, noise = alpha**0.5, (1 - alpha) ** 0.5
        if self.scheduler.config.prediction_type == "v_prediction":
            return self.latents.mul(signal) - prediction_BCHW.mul(noise)
        return self.latents.sub(prediction_BCHW, alpha=noise).div(signal)


def guide(prediction_NCHW: Tensor, scale_B: Tensor, rescale_B: Tensor) -> Tensor:
    """Classifier-free guidance, optionally with its contrast restored: [B, C, H, W].

    Args:
        prediction_NCHW: negative half, then positive half; returned as it is if there is one half.
        scale_B: guidance scale of every image.
        rescale_B: how much of the positive half's standard deviation to restore, 0 to 1
            (https://arxiv.org/abs/2305.08891, section 3.4).
    """
    if len(prediction_NCHW) == len(scale_B):
        return prediction_NCHW
    negative, positive = prediction_NCHW.chunk(2)
    guided = negative + scale_B.view(-1, 1, 1, 1) * (positive - negative)
    if not bool((rescale_B > 0).any()):
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
        super().__init__(unet, None)
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
        noise_BCHW = noise_BCHW.to(device, self.unet.dtype)
        trajectory = Trajectory(
            self.config.scheduler, scheduler, num_inference_steps, noise_BCHW, generator
        )
        scale_B = noise_BCHW.new_full((num,), guidance_scale)
        rescale_B = noise_BCHW.new_full((num,), guidance_rescale)
        while not trajectory.done:
            timesteps_B = trajectory.timestep.to(device).expand(num)
            prediction_NCHW = self.predict(trajectory.latents, timesteps_B, conditions)
            trajectory.advance(guide(prediction_NCHW, scale_B, rescale_B))
        return trajectory.latents

    @torch.no_grad()
    def decode(self, latents_BCHW: Tensor) -> Tensor:
        """Stage three: images [B, 3, S, S] in [0, 1]."""
        return decode(self.vae, latents_BCHW)
