"""Grid sampling as the U-Net needs it: many queries, the dense maps of one image each.

Legend: B images, N rows (a multiple of B; row n reads image n % B), L queries, H heads, V positions
of all maps, d width of a head, K offsets and logits, Y = d + `extra`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from model.synchronizer.geometry import Geometry, Sight
from model.synchronizer.kernels import numba
from model.synchronizer.kernels.choice import Kernel
from model.synchronizer.kernels.grid import GridSampling


class MapSampling(Protocol):
    """One way to sample dense maps; it also chooses how values lie in memory.

    `extra` columns follow each head's sum: the mass on the ignore token, then any that do not
    matter here.
    """

    extra: int

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Bring an image's values into the layout that `sample` reads. Once per image."""
        ...

    def sample(
        self,
        geometry: Geometry,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
    ) -> Tensor:
        """Weighted sums of samples, and the ignored mass: [N, L, H, Y]."""
        ...


class PagedMaps:
    """Dense maps read by a kernel for paged vectors, for inference: a page is an image."""

    extra = 2

    def __init__(self, make_kernel: Callable[[Geometry], Kernel]) -> None:
        self._make_kernel = make_kernel
        self._kernels: dict[Geometry, tuple[Kernel, Tensor]] = {}
        self._sights: dict[tuple[int, int, int], Sight] = {}

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Rows: [B, H, V, d], so that a head's vectors stay in the processor's cache."""
        return values_BVHd.transpose(1, 2).contiguous()

    def sample(
        self,
        geometry: Geometry,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
    ) -> Tensor:
        """Each query of each row is a token of the kernel."""
        N, L, K = predicted_NLK.shape
        if geometry not in self._kernels:
            no_relative_RX = predicted_NLK.new_zeros(geometry.num_relative, K)
            self._kernels[geometry] = self._make_kernel(geometry), no_relative_RX
        kernel, relative_RX = self._kernels[geometry]
        sight = self._sight(visible_B, N, reference_L2)
        sampled_THY = kernel(predicted_NLK.reshape(-1, K), relative_RX, values, sight)
        return sampled_THY.view(N, L, *sampled_THY.shape[1:])

    def _sight(self, visible_B: Tensor, num_rows: int, reference_L2: Tensor) -> Sight:
        """`Sight.of_maps`; only what depends on `visible_B` is computed at every step."""
        sizes = len(visible_B), num_rows, len(reference_L2)
        if sizes not in self._sights:
            self._sights[sizes] = Sight.of_maps(visible_B, num_rows, reference_L2)
        known = self._sights[sizes]
        count_T = visible_B.long()[known.request_T]
        return replace(known, count_T=count_T, reference_P2=reference_L2)


def default_sampling(device: torch.device, dtype: torch.dtype) -> MapSampling:
    """The fastest sampling of dense maps for inference on a device."""
    if device.type == "cpu" and dtype == torch.float32 and numba.available():
        return PagedMaps(numba.NumbaKernel)
    return GridSampling()
