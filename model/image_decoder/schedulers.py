"""From noise to an image's latents: schedulers, guidance, random numbers.

Legend: B images, N rows (2B with guidance: negative half first), C channels, H, W latent grid.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol, cast

import diffusers
import torch
from torch import Tensor

SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
# The published sampler never clips its prediction of the clean latents.
_FIXED = {"clip_sample": False}


class Scheduler(Protocol):
    """What we use of a diffusers scheduler. Solvers of higher order keep state: one per image."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: float

    def set_timesteps(self, num_inference_steps: int) -> None:
        """Choose the timesteps."""

    def step(self, model_output: Tensor, timestep: Tensor, sample: Tensor, **options: Any) -> Any:
        """Go to the next timestep."""


def make_scheduler(name: str, config: Mapping[str, Any], num_inference_steps: int) -> Scheduler:
    """A fresh scheduler of a kind, on the noise schedule of the checkpoint.

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


def scheduler_step(
    scheduler: Scheduler,
    prediction_BCHW: Tensor,
    timestep: Tensor,
    latents_BCHW: Tensor,
    generator: torch.Generator | None,
) -> Tensor:
    """The latents at the next timestep. Noise is drawn only by schedulers that add some."""
    options = {"generator": generator} if takes_noise(scheduler) else {}
    stepped = scheduler.step(prediction_BCHW, timestep, latents_BCHW, return_dict=False, **options)
    return cast(Tensor, stepped[0])


def takes_noise(scheduler: Scheduler) -> bool:
    """Whether steps of this scheduler draw random numbers."""
    return isinstance(scheduler, diffusers.DDPMScheduler)


def guide(prediction_NCHW: Tensor, scale_B: Tensor, rescale_B: Tensor) -> Tensor:
    """Join both halves by classifier-free guidance, optionally with its contrast restored.

    Args:
        prediction_NCHW: negative half, then positive half.
        scale_B: guidance scale of every image.
        rescale_B: how much of the positive half's standard deviation to restore, 0 to 1
            (https://arxiv.org/abs/2305.08891, section 3.4).

    Returns:
        [B, C, H, W]
    """
    negative, positive = prediction_NCHW.chunk(2)
    guided = negative + scale_B.view(-1, 1, 1, 1) * (positive - negative)
    if not bool((rescale_B > 0).any()):
        return guided
    ratio = positive.std(dim=(1, 2, 3), keepdim=True) / guided.std(dim=(1, 2, 3), keepdim=True)
    return guided * (1 + rescale_B.view(-1, 1, 1, 1) * (ratio - 1))


def clean_latents(
    scheduler: Scheduler, prediction_BCHW: Tensor, timestep: int, latents_BCHW: Tensor, kind: str
) -> Tensor:
    """The clean latents that a prediction of kind `epsilon` or `v_prediction` implies."""
    alpha = float(scheduler.alphas_cumprod[timestep])
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if kind == "v_prediction":
        return latents_BCHW.mul(signal) - prediction_BCHW.mul(noise)
    return latents_BCHW.sub(prediction_BCHW, alpha=noise).div(signal)
