"""A denoising step recorded as a CUDA graph, one for each shape of a batch.

An eager step launches over a thousand kernels, and for few images launching takes longer than
computing. A replayed graph launches them at once. It reads fixed memory: latents and timesteps are
copied there at every step, conditions when other images take part.

Legend: B images, C latent channels, H, W latent grid.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from model.device.graph import CapturedGraph, Graphs
from model.image_decoder.unet.conditions import Conditions

Step = Callable[[Tensor, Tensor, Conditions], Tensor]
Shape = tuple[torch.Size, int]

_MOST_RECORDINGS = 32
logger = logging.getLogger(__name__)


def shape_of(latents_BCHW: Tensor, conditions: Conditions) -> Shape:
    """What a recording or compilation holds for: shape of the latents, and number of rows."""
    return latents_BCHW.shape, len(conditions.keys[0])


@dataclass
class Recording:
    """A recorded step, the memory that it reads, and the memory that it writes."""

    latents: Tensor
    timesteps: Tensor
    conditions: Conditions
    source: Conditions
    graph: CapturedGraph
    output: Tensor

    def fill(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions) -> None:
        """Set the inputs of the next replay."""
        self.latents.copy_(latents_BCHW)
        self.timesteps.copy_(timesteps_B)
        if conditions is not self.source:
            self.conditions.copy_(conditions)
            self.source = conditions


class CapturedStep:
    """A step that is recorded at its first evaluation of a shape, and replayed from then on.

    The output is overwritten by the next evaluation. A step that can't be recorded runs eagerly.
    """

    def __init__(self, step: Step, graphs: Graphs, most: int = _MOST_RECORDINGS) -> None:
        """Keep recordings for the `most` shapes used last."""
        self._step, self._graphs, self._most = step, graphs, most
        self._recordings: OrderedDict[Shape, Recording | None] = OrderedDict()

    @property
    def num_recordings(self) -> int:
        return sum(recording is not None for recording in self._recordings.values())

    def __call__(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions) -> Tensor:
        shape = shape_of(latents_BCHW, conditions)
        if shape not in self._recordings:
            self._recordings[shape] = self._record(latents_BCHW, timesteps_B, conditions)
            if len(self._recordings) > self._most:
                self._recordings.popitem(last=False)
        self._recordings.move_to_end(shape)
        recording = self._recordings[shape]
        if recording is None:
            return self._step(latents_BCHW, timesteps_B, conditions)
        recording.fill(latents_BCHW, timesteps_B, conditions)
        recording.graph.replay()
        return recording.output

    def _record(
        self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions
    ) -> Recording | None:
        latents, timesteps, fixed = latents_BCHW.clone(), timesteps_B.clone(), conditions.clone()
        try:
            graph, output = self._graphs.capture(lambda: self._step(latents, timesteps, fixed))
        except RuntimeError as error:
            logger.warning(
                "no CUDA graph of %d images of %s: their steps run eagerly: %s",
                len(latents),
                "x".join(map(str, latents.shape[2:])),
                error,
            )
            return None
        return Recording(latents, timesteps, fixed, conditions, graph, output)
