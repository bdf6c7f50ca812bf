"""The type of all grid sampling kernels, and the choice among them.

Legend: T tokens, X offsets [H, P, 2] and logits [H, S, P] of a token, R relative positions,
N slots, H heads, P points, S maps, C channels.

Sampling and projecting are both linear, so projecting the few sampled vectors of a token equals
projecting all vectors of an image first. Two columns behind the sums carry what the projection
needs to know: how much of the softmax' mass fell on the ignore token, and how much inside the maps
(it weighs the projection's bias).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from model.compiler import find_compiler
from model.synchronizer.geometry import Geometry, Sight
from model.synchronizer.kernels import cpp, gather, numba


class Kernel(Protocol):
    """Sums what each token and head looks at."""

    def __call__(
        self, query_TX: Tensor, relative_RX: Tensor, features_NW: Tensor, sight: Sight, /
    ) -> Tensor:
        """Sample.

        Args:
            query_TX: offsets and logits of each token, before the image's part.
            relative_RX: the same numbers by relative index of an image, to be added.
            features_NW: the vectors, a row for each slot.
            sight: images in sight.

        Returns:
            [T, H, C + 2]: weighted sum of vectors, mass ignored, mass inside the maps.
        """
        ...


def choose_kernel(
    kind: str, geometry: Geometry, device: torch.device, dtype: torch.dtype, cache_dir: Path
) -> Kernel:
    """The kernel called `kind`, or for `auto` the fastest one that works here.

    Raises:
        ValueError: there is no such kernel, or it cannot work here.
    """
    if kind == "auto":
        kind = _fastest(device, dtype)
    if kind == "torch":
        return partial(gather.sample, geometry=geometry)
    if kind == "triton":
        from model.synchronizer.kernels.triton import sample_triton

        return partial(sample_triton, geometry=geometry)
    if kind == "numba" and device.type == "cpu" and dtype == torch.float32:
        return numba.NumbaKernel(geometry)
    if kind == "cpp" and device.type == "cpu":
        library = cpp.build(cache_dir)
        if library is None:
            return partial(gather.sample, geometry=geometry)
        return cpp.CppKernel(library, geometry)
    raise ValueError(f"there is no grid sampling kernel {kind!r} for {device.type} in {dtype}")


def _fastest(device: torch.device, dtype: torch.dtype) -> str:
    if device.type == "cuda":
        return "triton"
    if device.type == "cpu" and dtype != torch.float16 and find_compiler() is not None:
        return "cpp"
    return "torch"
