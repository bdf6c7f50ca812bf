"""Reading one image's maps at predicted places: the inner loop of the U-Net's synchronizer.

Legend: B images, N rows (a multiple of B; row n reads image n % B), L queries, H heads, S maps,
P points, V positions of all maps, d head width, K = H * 2P offsets and H * S * P logits.

Two samplers compute the same. `FusedSampling` is one pass over the queries on the CPU, with the
softmax, the bilinear weights and the sum in registers: no tensor of samples or weights exists.
`GridSampling` is made of `grid_sample`, for GPUs, training and export.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class SamplingShape:
    """The fixed sizes of one block. Offsets are measured in cells of a map of side `base`."""

    heads: int
    points: int
    sides: tuple[int, ...]
    base: int

    @property
    def num_predicted(self) -> int:
        """Offsets and logits of one query."""
        return self.heads * self.points * (2 + len(self.sides))


class Sampling(Protocol):
    """One way to sample; it also chooses how values lie in memory."""

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Bring an image's values into the layout that `sample` reads. Once per image."""
        ...

    def sample(
        self,
        shape: SamplingShape,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
        ignore_Hd: Tensor,
    ) -> Tensor:
        """Weighted sums of samples [N, L, H * d]; the ignore token where nothing is visible."""
        ...


class GridSampling:
    """Through `grid_sample`: differentiable, exportable, on any device."""

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Planes: [B, H, d, V]."""
        return values_BVHd.permute(0, 2, 3, 1).contiguous()

    def sample(
        self,
        shape: SamplingShape,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
        ignore_Hd: Tensor,
    ) -> Tensor:
        """Heads are folded into the batch and the halves of an image into the queries."""
        B, H, d, _ = values.shape
        N, L, _ = predicted_NLK.shape
        S, P, halves = len(shape.sides), shape.points, N // B
        offsets, logits = predicted_NLK.float().split([H * P * 2, H * S * P], dim=-1)
        weights_NLHS, mass_NLH1 = ignorable_softmax(logits.unflatten(-1, (H, S * P)), visible_B)
        reference_L112 = reference_L2[:, None, None]
        places_NLHP2 = reference_L112 + offsets.unflatten(-1, (H, P, 2)) / shape.base

        def fold(x_NLH: Tensor) -> Tensor:
            """[h * B, L, H, ...] to [B * H, h * L, ...]."""
            x_hBLH = x_NLH.unflatten(0, (halves, B))
            folded: Tensor = x_hBLH.movedim((1, 3), (0, 1)).flatten(2, 3).flatten(0, 1)
            return folded

        grid_MLP2 = fold(places_NLHP2 * 2 - 1)
        weights_MLSP = fold(weights_NLHS).unflatten(-1, (S, P))
        out_MdL: Tensor | None = None
        start = 0
        for level, side in enumerate(shape.sides):
            plane = values[..., start : start + side * side].reshape(B * H, d, side, side)
            start += side * side
            samples_MdLP = F.grid_sample(plane.float(), grid_MLP2, align_corners=False)
            summed_MdL = (samples_MdLP * weights_MLSP[:, :, level].unsqueeze(1)).sum(-1)
            out_MdL = summed_MdL if out_MdL is None else out_MdL + summed_MdL
        assert out_MdL is not None
        out_BHdhL = out_MdL.unflatten(0, (B, H)).unflatten(-1, (halves, L))
        out_NLHd = out_BHdhL.permute(3, 0, 4, 1, 2).flatten(0, 1)
        out_NLD: Tensor = (out_NLHd + mass_NLH1 * ignore_Hd).flatten(2).to(predicted_NLK.dtype)
        return out_NLD


def ignorable_softmax(logits_NLHS: Tensor, visible_B: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax beside one logit of 0: weights, and the mass that this one gets.

    Rows whose image is not visible have weights 0 and mass 1.
    """
    seen_N111 = visible_B.float().repeat(logits_NLHS.shape[0] // visible_B.shape[0])[
        :, None, None, None
    ]
    padded = torch.cat((logits_NLHS, torch.zeros_like(logits_NLHS[..., :1])), dim=-1)
    weights = padded.softmax(-1)[..., :-1] * seen_N111
    return weights, 1 - weights.sum(-1, keepdim=True)


class FusedSampling:
    """One compiled pass on the CPU in float32, without gradients."""

    def __init__(self, num_threads: int | None = None) -> None:
        self._num_threads = num_threads or torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="sampling")
        self._kernel = _fused_kernel()

    @staticmethod
    def available() -> bool:
        """Whether the compiler (numba) is installed."""
        return importlib.util.find_spec("numba") is not None

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Rows: [B, H, V, d], so that a head's table stays in cache."""
        return values_BVHd.transpose(1, 2).contiguous()

    def sample(
        self,
        shape: SamplingShape,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
        ignore_Hd: Tensor,
    ) -> Tensor:
        """Split rows and heads over threads; every row is computed by itself."""
        N, L, _ = predicted_NLK.shape
        _, H, _, d = values.shape
        out_NLHd = torch.empty(N, L, H, d)
        sides = np.array(shape.sides)
        arguments = (
            values.numpy(),
            sides,
            np.cumsum(sides**2) - sides**2,
            reference_L2.numpy(),
            predicted_NLK.contiguous().numpy(),
            np.float32(shape.base),
            visible_B.bool().numpy(),
            ignore_Hd.contiguous().numpy(),
            shape.points,
            out_NLHd.numpy(),
        )
        cuts = [N * H * i // self._num_threads for i in range(self._num_threads + 1)]
        futures = [
            self._pool.submit(self._kernel, *arguments, first, last)
            for first, last in zip(cuts, cuts[1:], strict=False)
        ]
        for future in futures:
            future.result()
        return out_NLHd.flatten(2)


@cache
def _fused_kernel() -> Callable[..., None]:
    """The kernel, compiled at its first call."""
    import numba

    compiled: Callable[..., None] = numba.njit(nogil=True, fastmath=True)(_sample_rows)
    return compiled


def _sample_rows(  # noqa: C901 - one loop nest, compiled as a whole
    values_BHVd: Any,
    sides_S: Any,
    starts_S: Any,
    reference_L2: Any,
    predicted_NLK: Any,
    base: Any,
    visible_B: Any,
    ignore_Hd: Any,
    num_points: int,
    out_NLHd: Any,
    first: int,
    last: int,
) -> None:
    """Sample for the pairs of row and head from `first` to `last`."""
    num_images, num_heads, _, width = values_BHVd.shape
    num_maps = len(sides_S)
    num_logits = num_maps * num_points
    weights = np.empty(num_logits, np.float32)
    total = np.empty(width, np.float32)
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    for task in range(first, last):
        row, head = task // num_heads, task % num_heads
        table = values_BHVd[row % num_images, head]
        ignore = ignore_Hd[head]
        first_logit = num_heads * 2 * num_points + head * num_logits
        for query in range(predicted_NLK.shape[1]):
            out = out_NLHd[row, query, head]
            if not visible_B[row % num_images]:
                out[:] = ignore
                continue
            offsets = predicted_NLK[row, query, head * 2 * num_points :]
            logits = predicted_NLK[row, query, first_logit:]
            largest = zero
            for k in range(num_logits):
                largest = max(largest, logits[k])
            ignored = np.exp(-largest)
            mass = ignored
            for k in range(num_logits):
                weights[k] = np.exp(logits[k] - largest)
                mass += weights[k]
            for c in range(width):
                total[c] = ignored * ignore[c]
            for level in range(num_maps):
                side, start = sides_S[level], starts_S[level]
                for point in range(num_points):
                    x = (reference_L2[query, 0] + offsets[2 * point] / base) * side - half
                    y = (reference_L2[query, 1] + offsets[2 * point + 1] / base) * side - half
                    if not (-one < x < side and -one < y < side):
                        continue
                    left, top = int(np.floor(x)), int(np.floor(y))
                    right_part, low_part = np.float32(x - left), np.float32(y - top)
                    # A corner outside the map weighs nothing; any row of the table will do for it.
                    left_part = one - right_part if left >= 0 else zero
                    top_part = one - low_part if top >= 0 else zero
                    right_part = right_part if left + 1 < side else zero
                    low_part = low_part if top + 1 < side else zero
                    right, low = min(left + 1, side - 1), min(top + 1, side - 1)
                    left, top = max(left, 0), max(top, 0)
                    weight = weights[level * num_points + point]
                    nw, ne = weight * top_part * left_part, weight * top_part * right_part
                    sw, se = weight * low_part * left_part, weight * low_part * right_part
                    at_nw, at_ne = (
                        table[start + top * side + left],
                        table[start + top * side + right],
                    )
                    at_sw, at_se = (
                        table[start + low * side + left],
                        table[start + low * side + right],
                    )
                    for c in range(width):
                        total[c] += nw * at_nw[c] + ne * at_ne[c] + sw * at_sw[c] + se * at_se[c]
            for c in range(width):
                out[c] = total[c] / mass


def default_sampling(device: torch.device, dtype: torch.dtype) -> Sampling:
    """The fastest sampling for inference on a device."""
    if device.type == "cpu" and dtype == torch.float32 and FusedSampling.available():
        return _shared_fused()
    return GridSampling()


@cache
def _shared_fused() -> FusedSampling:
    """One pool of threads for the process."""
    return FusedSampling()
