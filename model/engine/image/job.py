"""One image on its way through the denoising loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.config.schema import ImageDecoderConfig
from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.conditions import Conditions
from model.image_decoder.sampler import Trajectory, initial_noise
from model.sampling_params import ImageParams
from model.segments import ImageSegment

# An image counts as due this long after its arrival, even if its deadline is later or absent. So
# every image that has waited this long goes before all newcomers.
PATIENCE_S = 60.0

ImageUpdate = ImageProgress | ImagePreview | ImageEnd | Exception


@dataclass(eq=False)
class ImageJob:
    """What is asked for, and how far it has come. Only the loop's thread changes its state.

    Attributes:
        request_id: for logs.
        image_tokens_1TD: the condition.
        previous: the image whose maps the synchronizer reads.
        params: parameters.
        size: latent grid (height, width).
        deadline: in time.monotonic(); None for no limit.
        emit: hands updates to the caller; the last is an `ImageEnd` or an exception.
        arrival: in time.monotonic().
        cancelled: set by the caller; the loop drops the image before its next step.
        precise: computed in float32, because 16 bits overflowed.
        conditions: set by the loop before the first step.
        trajectory: set by `begin`.
    """

    request_id: str
    image_tokens_1TD: Tensor
    previous: ImageSegment | None
    params: ImageParams
    size: tuple[int, int]
    deadline: float | None
    emit: Callable[[ImageUpdate], None]
    arrival: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    precise: bool = False
    conditions: Conditions | None = None
    trajectory: Trajectory = field(init=False)

    @property
    def urgency(self) -> float:
        """When the image is due; the smallest goes first."""
        patient = self.arrival + PATIENCE_S
        return patient if self.deadline is None else min(self.deadline, patient)

    @property
    def guided(self) -> bool:
        """Whether both guidance halves are needed."""
        return self.params.guidance_scale > 1

    @property
    def group(self) -> tuple[bool, bool, tuple[int, int]]:
        """Images of the same group can be evaluated together."""
        return self.guided, self.precise, self.size

    def begin(self, config: ImageDecoderConfig) -> None:
        """Start at the noise of the seed; a second call starts again at the same noise."""
        params = self.params
        generator = torch.Generator().manual_seed(params.seed)
        self.trajectory = Trajectory(
            config.scheduler,
            params.scheduler,
            params.num_inference_steps,
            initial_noise(config, generator, size=self.size),
            generator,
        )

    def preview_after(self, step: int) -> int | None:
        """The number, from 1, of the preview that is due after `step` steps; None for none."""
        total, wanted = self.trajectory.num_steps, self.params.num_previews
        due = {max(1, total * n // (wanted + 1)): n for n in range(1, wanted + 1)}
        return due.get(step) if step < total else None
