"""Chooses how images are sampled on this machine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

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
        if device.type == "cpu" and dtype == torch.float16:
            kind = "torch"
    if kind == "torch":
        return partial(_sample_torch, geometry=geometry)
    if kind == "triton":
        from model.vllm_plugin.triton_sampling import sample_triton

        return partial(sample_triton, geometry=geometry)
    if kind == "cpp" and device.type == "cpu":
        from model.vllm_plugin import native

        library = native.build(cache_dir)
        if library is None:
            return partial(_sample_torch, geometry=geometry)
        return native.NativeSampler(library, geometry)
    raise ValueError(f"there is no image sampler {kind!r} for {device.type}")


def _sample_torch(
    query_TX: torch.Tensor,
    relative_RX: torch.Tensor,
    features_NW: torch.Tensor,
    plan: StepPlan,
    geometry: Geometry,
) -> torch.Tensor:
    """The reference, with its arguments in the common order."""
    return sample(query_TX, relative_RX, features_NW, plan, geometry)
