"""One image on its way through the denoising loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.conditions import Invariants
from model.image_decoder.schedulers import Scheduler, make_scheduler
from model.sampling_params import ImageParams
from model.segments import ImageSegment

# Images without a deadline are ordered as if it were this far away, and no deadline counts for
# more: whoever has waited this long comes before all newcomers.
PATIENCE_S = 60.0

Item = ImageProgress | ImagePreview | ImageEnd | Exception


@dataclass(eq=False)
class Picture:
    """What is asked for, and how far it has come. Only the loop's thread changes its state.

    Attributes:
        request_id: for logs.
        image_tokens_1TD: the condition.
        previous: the image whose maps the synchronizer reads.
        sampling: parameters.
        size: latent grid (height, width).
        deadline: in time.monotonic(); None for no limit.
        emit: hands items, and last an `ImageEnd` or an exception, to the caller.
        cancelled: set by the caller; the loop drops the image before its next step.
        precise: computed in float32, after numbers overflowed.
    """

    request_id: str
    image_tokens_1TD: Tensor
    previous: ImageSegment | None
    sampling: ImageParams
    size: tuple[int, int]
    deadline: float | None
    emit: Callable[[Item], None]
    arrival: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    precise: bool = False
    step: int = 0
    latents: Tensor = field(init=False)
    scheduler: Scheduler = field(init=False)
    generator: torch.Generator = field(init=False)
    invariants: Invariants | None = None

    @property
    def urgency(self) -> float:
        """Smaller goes first."""
        patient = self.arrival + PATIENCE_S
        return patient if self.deadline is None else min(self.deadline, patient)

    @property
    def guided(self) -> bool:
        """Whether both guidance halves are needed."""
        return self.sampling.guidance_scale > 1

    @property
    def group(self) -> tuple[bool, bool, tuple[int, int]]:
        """Images of the same group can be evaluated together."""
        return self.guided, self.precise, self.size

    @property
    def timestep(self) -> Tensor:
        """Of the next step."""
        return self.scheduler.timesteps[self.step]

    @property
    def total(self) -> int:
        """Steps in all."""
        return len(self.scheduler.timesteps)

    @property
    def done(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.total

    def begin(self, channels: int, schedule: dict[str, object]) -> None:
        """Draw the initial latents; again from the same seed when drawn a second time."""
        sampling = self.sampling
        self.scheduler = make_scheduler(sampling.scheduler, schedule, sampling.num_inference_steps)
        self.generator = torch.Generator().manual_seed(sampling.seed)
        shape = (1, channels, *self.size)
        noise = torch.randn(shape, generator=self.generator)
        self.latents = noise * float(self.scheduler.init_noise_sigma)
        self.step = 0

    def previews_at(self) -> dict[int, int]:
        """After which steps previews are due: step to number, numbers from 1."""
        wanted = self.sampling.num_previews
        return {max(1, self.total * n // (wanted + 1)): n for n in range(1, wanted + 1)}
