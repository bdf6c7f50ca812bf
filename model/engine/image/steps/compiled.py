"""Steps whose blocks are compiled by torch.compile in the background, while others serve.

Residual blocks, transformer layers and the synchronizer's blocks are compiled one by one: equal
blocks share their code, and the graphs stay small. Compiled whole, a step is a graph of over
10,000 operators that takes minutes.

Legend: B images, C latent channels, H, W latent grid.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy

import torch
from torch import Tensor

from model.device.stream import aside
from model.engine.image.steps.cache import CompileCache
from model.engine.image.steps.captured import Shape, Step, shape_of
from model.image_decoder.sampler import ImageSampler
from model.image_decoder.unet.conditions import Conditions
from model.image_decoder.unet.step import Blocks

# Shapes of one kind of block: levels of the U-Net, widths of its skips, buckets, halves.
_MOST_SHAPES = 256
# Norm of the difference from the eager step, relative to its own. Fusing changes the rounding.
_TOLERANCES = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 1e-2}
_STOP_S = 5.0
logger = logging.getLogger(__name__)

StepArguments = tuple[Tensor, Tensor, Conditions]


def compile_blocks(sampler: ImageSampler) -> ImageSampler:
    """The same networks, whose blocks torch.compile compiles at the first call of each shape.

    That call must be made within `many_shapes`.
    """
    eager = Blocks.eager()
    compiled = copy(sampler)
    compiled.blocks = Blocks(
        torch.compile(eager.resnet, fullgraph=True, dynamic=False),
        torch.compile(eager.layer, fullgraph=True, dynamic=False),
        torch.compile(eager.attend, fullgraph=True, dynamic=False),
    )
    return compiled


def many_shapes() -> AbstractContextManager[None]:
    """Let one function be compiled for all blocks of a kind: PyTorch gives up after 8 shapes.

    The setting is the thread's own, and matters only while something is compiled.
    """
    limits = {
        "recompile_limit": _MOST_SHAPES,
        "accumulated_recompile_limit": 3 * _MOST_SHAPES,
    }
    context: AbstractContextManager[None] = torch._dynamo.config.patch(limits)
    return context


class CompiledStep:
    """Evaluates by `serving` until a shape is compiled and agrees with the eager step."""

    def __init__(self, sampler: ImageSampler, serving: Step, wrap: Callable[[Step], Step]) -> None:
        """Take the eager networks, the step that serves meanwhile, and how to record a step."""
        self._eager, self._serving = sampler.predict, serving
        self._compiled = compile_blocks(sampler).predict
        self._recorded = wrap(self._compiled)
        self._device = sampler.unet.device
        self._ready: set[Shape] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def ready(self) -> frozenset[Shape]:
        """The shapes that are evaluated by compiled code."""
        return frozenset(self._ready)

    def __call__(self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions) -> Tensor:
        compiled = shape_of(latents_BCHW, conditions) in self._ready
        step = self._recorded if compiled else self._serving
        return step(latents_BCHW, timesteps_B, conditions)

    def compile(self, inputs: Sequence[Callable[[], StepArguments]], cache: CompileCache) -> None:
        """Compile for some inputs, in a thread of its own."""
        self._thread = threading.Thread(
            target=self._compile_all, args=(inputs, cache), name="compiling", daemon=True
        )
        self._thread.start()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the compilation has ended."""
        if self._thread is not None:
            self._thread.join(seconds)

    def stop(self) -> None:
        """Skip the shapes that are not yet begun; one that takes long is left behind."""
        self._stopping.set()
        self.wait(_STOP_S)

    def _compile_all(
        self, inputs: Sequence[Callable[[], StepArguments]], cache: CompileCache
    ) -> None:
        cache.load()
        for make in inputs:
            if self._stopping.is_set():
                return
            try:
                with torch.no_grad(), aside(self._device), many_shapes():
                    self._compile_one(*make())
            except (RuntimeError, OSError, ValueError) as error:
                logger.error("compiling failed, the step stays as it is: %s", error)
                return
        cache.save()

    def _compile_one(
        self, latents_BCHW: Tensor, timesteps_B: Tensor, conditions: Conditions
    ) -> None:
        started = time.perf_counter()
        compiled = self._compiled(latents_BCHW, timesteps_B, conditions).float()
        expected = self._eager(latents_BCHW, timesteps_B, conditions).float()
        difference = float((compiled - expected).norm() / expected.norm())  # Waits for the device.
        shape = shape_of(latents_BCHW, conditions)
        if not difference <= _TOLERANCES[latents_BCHW.dtype]:
            logger.error("compiled step of %s differs by %.1e: not used", shape, difference)
            return
        self._ready.add(shape)
        seconds = time.perf_counter() - started
        logger.info(
            "compiled step of %s ready: %.0f s, differs by %.1e", shape, seconds, difference
        )
