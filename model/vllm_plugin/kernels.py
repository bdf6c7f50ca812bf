"""Chooses how images are sampled on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from model.compiler import find_compiler
from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.sampling import sample

if TYPE_CHECKING:
    from model.vllm_plugin.plan import StepPlan

logger = logging.getLogger(__name__)

Sampler = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, "StepPlan"], torch.Tensor]


def choose_sampler(
    kind: str, geometry: Geometry, device: torch.device, dtype: torch.dtype, cache_dir: Path
) -> Sampler:
    """The implementation called `kind`, or for `auto` the fastest one that works here.

    Raises:
        ValueError: there is no such implementation, or it cannot work here.
    """
    if kind == "auto":
        kind = "triton" if device.type == "cuda" else "cpp"
        if device.type == "cpu" and (dtype == torch.float16 or find_compiler() is None):
            kind = "torch"
    if kind == "torch":
        return partial(sample, geometry=geometry)
    if kind == "triton":
        from model.vllm_plugin.triton_sampling import sample_triton

        return partial(sample_triton, geometry=geometry)
    if kind == "cpp" and device.type == "cpu":
        from model.vllm_plugin import native

        library = native.build(cache_dir)
        if library is None:
            return partial(sample, geometry=geometry)
        return native.NativeSampler(library, geometry)
    raise ValueError(f"there is no image sampler {kind!r} for {device.type}")
