"""Schedulers as tables: a step of any of them is one linear map of an image's state.

Legend: B images, C latent channels, H, W latent grid, S steps, K parts of a state, R rows (K and
one more), X inputs of a step (K, the prediction, the noise).

A scheduler of diffusers computes with scalars on the host and, for UniPC, solves small systems on
the device, at every step of every image. But each of its steps is linear in the latents, in what it
remembers, in the prediction and in the noise. So the coefficients are read off once, by running it
on unit vectors. Then all images of a batch, whatever their schedulers and steps, advance by a
single product on their device, and nothing passes between host and device but fresh noise.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol, cast

import diffusers
import torch
from torch import Tensor

from model.device.stream import upload

SCHEDULERS = {
    "ddpm": diffusers.DDPMScheduler,
    "ddim": diffusers.DDIMScheduler,
    "dpmsolver++": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
}
# The published sampler never clips its prediction of the clean latents.
_FIXED = {"clip_sample": False}
# A state: latents, the latents before them as UniPC corrected them, the last two clean predictions.
_NUM_PARTS = 4
_MOST_ORDER = 2


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


@dataclass(frozen=True)
class Schedule:
    """All steps of a scheduler, on one device.

    Attributes:
        timesteps_S: what the U-Net is told, integers.
        maps_SRX: float32; the rows are the next state, and the clean latents that the prediction
            implies.
        draws: whether a step adds noise.
        init_noise_sigma: standard deviation of the latents at the start.
    """

    timesteps_S: Tensor
    maps_SRX: Tensor
    draws: tuple[bool, ...]
    init_noise_sigma: float

    @classmethod
    def of(
        cls,
        name: str,
        config: Mapping[str, Any],
        num_inference_steps: int,
        device: torch.device | str = "cpu",
    ) -> Schedule:
        """The table of a scheduler; kept for the next image.

        Args:
            name: in `SCHEDULERS`.
            config: noise schedule of the checkpoint.
            num_inference_steps: steps.
            device: where the images are.

        Raises:
            ValueError: see `make_scheduler`; or its steps are not linear.
        """
        document = json.dumps(dict(config), sort_keys=True)
        return _schedule(name, document, num_inference_steps, torch.device(device))


@lru_cache(maxsize=256)
def _schedule(name: str, document: str, num_steps: int, device: torch.device) -> Schedule:
    if device.type != "cpu":
        host = _schedule(name, document, num_steps, torch.device("cpu"))
        timesteps_S, maps_SRX = (upload(x, device) for x in (host.timesteps_S, host.maps_SRX))
        return Schedule(timesteps_S, maps_SRX, host.draws, host.init_noise_sigma)
    scheduler = make_scheduler(name, json.loads(document), num_steps)
    if getattr(scheduler.config, "thresholding", False):
        raise ValueError("a scheduler with thresholding is not supported")
    if getattr(scheduler.config, "solver_order", 1) > _MOST_ORDER:
        raise ValueError(f"a solver_order above {_MOST_ORDER} is not supported")
    with torch.no_grad():
        steps = [_read_step(scheduler, timestep) for timestep in scheduler.timesteps]
    maps_SRX = torch.stack([map_RX for map_RX, _ in steps]).float()
    draws = tuple(drawn for _, drawn in steps)
    return Schedule(scheduler.timesteps, maps_SRX, draws, float(scheduler.init_noise_sigma))


def _read_step(scheduler: Scheduler, timestep: Tensor) -> tuple[Tensor, bool]:
    """The map of the scheduler's next step, and whether the step draws noise."""
    remembers = hasattr(scheduler, "model_outputs")
    units = torch.eye(_NUM_PARTS + 1, dtype=torch.float32 if remembers else torch.float64)
    latents, before, last, older, prediction = units.view(_NUM_PARTS + 1, 1, -1, 1, 1)
    clean = _clean(scheduler, timestep, latents, prediction)
    zero = torch.zeros_like(latents)
    if remembers:
        _remember(scheduler, before, last, older)
        following = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
        kept = getattr(scheduler, "last_sample", None), scheduler.model_outputs[-1], last  # type: ignore[attr-defined]
        rows = (following, *(zero if row is None else row for row in kept), clean)
        spread, drawn = 0.0, False
    else:
        following, spread, drawn = _read_drawing_step(scheduler, timestep, latents, prediction)
        rows = following, zero, zero, zero, clean
    map_RX = torch.stack([row.flatten() for row in rows])
    noise_R1 = torch.zeros(len(rows), 1, dtype=map_RX.dtype)
    noise_R1[0] = spread
    return torch.cat((map_RX, noise_R1), 1), drawn


def _remember(scheduler: Any, before: Tensor, last: Tensor, older: Tensor) -> None:
    """Put unit vectors in the place of what a multistep scheduler remembers."""
    if getattr(scheduler, "last_sample", None) is not None:
        scheduler.last_sample = before
    history = [older, last][-len(scheduler.model_outputs) :]
    scheduler.model_outputs = [
        None if held is None else unit
        for held, unit in zip(scheduler.model_outputs, history, strict=True)
    ]


def _read_drawing_step(
    scheduler: Scheduler, timestep: Tensor, latents: Tensor, prediction: Tensor
) -> tuple[Tensor, float, bool]:
    """The following latents without their noise, the noise's deviation, and whether it is drawn."""
    if not isinstance(scheduler, diffusers.DDPMScheduler):
        return scheduler.step(prediction, timestep, latents, return_dict=False)[0], 0.0, False

    def step(prediction: Tensor, latents: Tensor) -> Tensor:
        options = {"generator": generator.manual_seed(0), "return_dict": False}
        following: Tensor = scheduler.step(prediction, timestep, latents, **options)[0]
        return following

    generator = torch.Generator()
    before = generator.manual_seed(0).get_state()
    following = step(prediction, latents)
    if torch.equal(generator.get_state(), before):
        return following, 0.0, False
    zero = torch.zeros_like(latents)
    noise_alone = step(zero, zero)
    unit = torch.randn(zero.shape, generator=generator.manual_seed(0), dtype=zero.dtype)
    spread = float((noise_alone * unit).sum() / unit.square().sum())
    return following - noise_alone, spread, True


def _clean(scheduler: Scheduler, timestep: Tensor, latents: Tensor, prediction: Tensor) -> Tensor:
    """The clean latents that a prediction implies."""
    alpha = float(scheduler.alphas_cumprod[int(timestep)])
    signal, noise = alpha**0.5, (1 - alpha) ** 0.5
    if scheduler.config.prediction_type == "v_prediction":
        return latents * signal - prediction * noise
    return (latents - prediction * noise) / signal


class Trajectory:
    """The way of latents from noise to images: their schedule, random numbers, state and step.

    Images that are not always evaluated together each need a trajectory of their own. The state is
    in float32, on the device of the schedule.
    """

    def __init__(
        self, schedule: Schedule, noise_BCHW: Tensor, generator: torch.Generator | None = None
    ) -> None:
        """Start at noise.

        Args:
            schedule: on the device of the images.
            noise_BCHW: from `initial_noise`.
            generator: of the CPU; draws the noise of each step, for schedulers that add some.
        """
        self.schedule = schedule
        device = schedule.maps_SRX.device
        latents = upload(noise_BCHW, device, torch.float32) * schedule.init_noise_sigma
        self.state_BKCHW = torch.stack((latents, *[torch.zeros_like(latents)] * 3), 1)
        self.step = 0
        self._generator = generator

    @property
    def latents(self) -> Tensor:
        """[B, C, H, W]."""
        return self.state_BKCHW[:, 0]

    @property
    def num_steps(self) -> int:
        return len(self.schedule.draws)

    @property
    def done(self) -> bool:
        return self.step >= self.num_steps

    @property
    def timestep(self) -> Tensor:
        """Timestep of the next step, a scalar."""
        return self.schedule.timesteps_S[self.step]

    @property
    def draws(self) -> bool:
        """Whether the next step adds noise."""
        return self.schedule.draws[self.step]

    def noise(self) -> Tensor:
        """The noise of the next step, zeros for a step without: [B, C, H, W]."""
        if not self.draws:
            return torch.zeros_like(self.latents)
        noise_BCHW = torch.randn(self.latents.shape, generator=self._generator)
        return upload(noise_BCHW, self.latents.device)


def advance(trajectories: Sequence[Trajectory], prediction_BCHW: Tensor) -> Tensor:
    """Take one step of every trajectory with the guided predictions of all their images.

    Returns:
        The clean latents that the predictions imply, [B, C, H, W].
    """
    state_BKCHW = torch.cat([trajectory.state_BKCHW for trajectory in trajectories])
    inputs = [state_BKCHW, prediction_BCHW.float()[:, None]]
    if any(trajectory.draws for trajectory in trajectories):
        inputs.append(torch.cat([trajectory.noise() for trajectory in trajectories])[:, None])
    inputs_BXCHW = torch.cat(inputs, 1)
    maps_BRX = torch.cat([_map(trajectory) for trajectory in trajectories])
    maps_BRX = maps_BRX[:, :, : inputs_BXCHW.shape[1]]
    # Not a matrix product: that could be computed in TF32.
    rows_BRCHW = (maps_BRX[..., None, None, None] * inputs_BXCHW[:, None]).sum(2)
    states = rows_BRCHW[:, :_NUM_PARTS].split([len(t.state_BKCHW) for t in trajectories])
    for trajectory, state in zip(trajectories, states, strict=True):
        trajectory.state_BKCHW = state
        trajectory.step += 1
    return rows_BRCHW[:, _NUM_PARTS]


def _map(trajectory: Trajectory) -> Tensor:
    """The map of a trajectory's next step, for each of its images."""
    return trajectory.schedule.maps_SRX[trajectory.step].expand(len(trajectory.state_BKCHW), -1, -1)
