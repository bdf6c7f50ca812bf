"""One image on its way through the denoising loop."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.config.schema import ImageDecoderConfig
from model.device.stream import upload
from model.engine.image.backends.base import Backend, Predict
from model.engine.protocol import ImageEnd, ImagePreview, ImageProgress
from model.image_decoder.sampler import initial_noise
from model.image_decoder.schedule import Schedule, Trajectory
from model.image_decoder.unet.conditions import Conditions
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
        guidance_scale: the given one, or the checkpoint's.
        deadline: in time.monotonic(); None for no limit.
        emit: hands updates to the caller; the last is an `ImageEnd` or an exception.
        arrival: in time.monotonic().
        cancelled: set by the caller; the loop drops the image before its next step.
        precise: computed in float32, because 16 bits overflowed.
        decoding: all steps are enqueued, and the image is being decoded.
        conditions: set by the loop before the first step.
        trajectory: set by `begin`.
    """

    request_id: str
    image_tokens_1TD: Tensor
    previous: ImageSegment | None
    params: ImageParams
    size: tuple[int, int]
    guidance_scale: float
    deadline: float | None
    emit: Callable[[ImageUpdate], None]
    arrival: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    precise: bool = False
    decoding: bool = False
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
        return self.guidance_scale > 1

    @property
    def group(self) -> tuple[bool, bool, tuple[int, int]]:
        """Images of the same group can be evaluated together."""
        return self.guided, self.precise, self.size

    def begin(self, config: ImageDecoderConfig, device: torch.device) -> None:
        """Start at the noise of the seed; a second call starts again at the same noise."""
        params = self.params
        generator = torch.Generator().manual_seed(params.seed)
        schedule = Schedule.of(
            params.scheduler, config.scheduler, params.num_inference_steps, device
        )
        noise_1CHW = initial_noise(config, generator, size=self.size)
        self.trajectory = Trajectory(schedule, noise_1CHW, generator)

    def preview_after(self, step: int) -> int | None:
        """The number, from 1, of the preview that is due after `step` steps; None for none."""
        total, wanted = self.trajectory.num_steps, self.params.num_previews
        due = {max(1, total * n // (wanted + 1)): n for n in range(1, wanted + 1)}
        return due.get(step) if step < total else None


@dataclass(frozen=True)
class JoinedImages:
    """Images that take steps together, and what these steps share.

    Attributes:
        jobs: the images.
        predict: the U-Net on their joined conditions.
        scale_B: guidance scales, on the device.
        rescale_B: how much contrast guidance restores; None if no image asks for it.
    """

    jobs: list[ImageJob]
    predict: Predict
    scale_B: Tensor
    rescale_B: Tensor | None

    @classmethod
    def of(
        cls, jobs: Sequence[ImageJob], backend: Backend, bucket: int, device: torch.device
    ) -> JoinedImages:
        """Join the conditions of a group of images, the last one's repeated up to the bucket."""
        conditions = [job.conditions for job in jobs if job.conditions is not None]
        padding = [conditions[-1]] * (bucket - len(jobs))
        predict = backend.join([*conditions, *padding], jobs[0].guided)
        scale_B = torch.tensor([job.guidance_scale for job in jobs])
        rescale_B = torch.tensor([job.params.guidance_rescale for job in jobs])
        restores = bool(rescale_B.any())
        return cls(
            list(jobs),
            predict,
            upload(scale_B, device),
            upload(rescale_B, device) if restores else None,
        )
