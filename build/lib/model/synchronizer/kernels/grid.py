"""Grid sampling of dense maps by `grid_sample`: differentiable, exportable, on any device.

Legend: B images, N rows (a multiple of B; row n reads image n % B), L queries, H heads, S maps,
P points, V positions of all maps, d width of a head, M rows of `grid_sample`, K offsets and logits.

Paged vectors are beyond `grid_sample`, whose every row reads a dense map of its own: these serve
the U-Net, training and export, and not vLLM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from model.synchronizer.geometry import Geometry


def sample_by_grid(
    values_BVHd: Tensor,
    shapes: Sequence[tuple[int, int]],
    places_BLHSP2: Tensor,
    weights_BLHSP: Tensor,
) -> Tensor:
    """`deformable_attention` through `grid_sample`; samples and sums in float32."""
    B, _, H, d = values_BVHd.shape
    L = places_BLHSP2.shape[1]
    maps_MdV = values_BVHd.permute(0, 2, 3, 1).reshape(B * H, d, -1).float()
    grid_SMLP2 = (2 * places_BLHSP2.float() - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights_SMLP = weights_BLHSP.float().permute(3, 0, 2, 1, 4).flatten(1, 2)
    out_MdL = _sum_samples(maps_MdV, shapes, grid_SMLP2.unbind(0), weights_SMLP.unbind(0))
    out_BLD = out_MdL.view(B, H * d, L).transpose(1, 2)
    return out_BLD.to(values_BVHd.dtype)


def _sum_samples(
    maps_MdV: Tensor,
    shapes: Sequence[tuple[int, int]],
    grids_MLP2: Iterable[Tensor],
    weights_MLP: Iterable[Tensor],
) -> Tensor:
    """Weighted sum of the samples of all maps, [M, d, L], float32."""
    out_MdL: Tensor | None = None
    # Split at once: the gradient of a slice is as large as the whole, and there are many maps.
    levels = maps_MdV.split([math.prod(shape) for shape in shapes], 2)
    for level_MdV, shape, grid_MLP2, weight_MLP in zip(
        levels, shapes, grids_MLP2, weights_MLP, strict=True
    ):
        map_Mdhw = level_MdV.unflatten(2, shape).float()
        samples_MdLP = F.grid_sample(map_Mdhw, grid_MLP2, align_corners=False)
        summed_MdL = (samples_MdLP * weight_MLP[:, None]).sum(-1)
        out_MdL = summed_MdL if out_MdL is None else out_MdL + summed_MdL
    assert out_MdL is not None
    return out_MdL


class GridSampling:
    """A `MapSampling` of PyTorch's own operators."""

    extra = 1

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Planes: [B, H, d, V]."""
        return values_BVHd.permute(0, 2, 3, 1).contiguous()

    def sample(
        self,
        geometry: Geometry,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
    ) -> Tensor:
        """Heads are folded into the batch and the halves of an image into the queries."""
        B, H, _, _ = values.shape
        N, L, _ = predicted_NLK.shape
        S, P, halves = len(geometry.sides), geometry.num_points, N // B
        offsets, logits = predicted_NLK.float().split(
            [geometry.num_offsets, geometry.num_logits], dim=-1
        )
        weights_NLHS, mass_NLH1 = ignorable_softmax(logits.unflatten(-1, (H, S * P)), visible_B)
        reference_L112 = reference_L2[:, None, None]
        places_NLHP2 = reference_L112 + offsets.unflatten(-1, (H, P, 2)) / geometry.base_side

        def fold(x_NLH: Tensor) -> Tensor:
            """[h * B, L, H, ...] to [B * H, h * L, ...]."""
            x_hBLH = x_NLH.unflatten(0, (halves, B))
            folded: Tensor = x_hBLH.movedim((1, 3), (0, 1)).flatten(2, 3).flatten(0, 1)
            return folded

        grid_MLP2 = fold(places_NLHP2 * 2 - 1)
        weights_MLSP = fold(weights_NLHS).unflatten(-1, (S, P))
        planes_MdV = values.flatten(0, 1)
        shapes = [(side, side) for side in geometry.sides]
        out_MdL = _sum_samples(planes_MdV, shapes, [grid_MLP2] * S, weights_MLSP.unbind(2))
        out_BHdhL = out_MdL.unflatten(0, (B, H)).unflatten(-1, (halves, L))
        out_NLHd = out_BHdhL.permute(3, 0, 4, 1, 2).flatten(0, 1)
        return torch.cat((out_NLHd, mass_NLH1), -1).to(predicted_NLK.dtype)


class GridOperator:
    """`GridSampling` as one operator, which torch.compile leaves as it is.

    Traced through, `grid_sample` alone would be half of all nodes of a U-Net's step.
    """

    extra = GridSampling.extra

    def arrange(self, values_BVHd: Tensor) -> Tensor:
        """Planes: [B, H, d, V]."""
        return GridSampling().arrange(values_BVHd)

    def sample(
        self,
        geometry: Geometry,
        values: Tensor,
        predicted_NLK: Tensor,
        reference_L2: Tensor,
        visible_B: Tensor,
    ) -> Tensor:
        """As `GridSampling.sample`."""
        sampled: Tensor = _sample_maps(
            values,
            predicted_NLK,
            reference_L2,
            visible_B,
            geometry.num_heads,
            geometry.num_points,
            geometry.sides,
            geometry.base_side,
            geometry.channels,
        )
        return sampled


@torch.library.custom_op("mm_interleaved::sample_maps", mutates_args=())
def _sample_maps(
    values: Tensor,
    predicted: Tensor,
    reference: Tensor,
    visible: Tensor,
    num_heads: int,
    num_points: int,
    sides: Sequence[int],
    base_side: int,
    channels: int,
) -> Tensor:
    geometry = Geometry.of_maps(num_heads, num_points, tuple(sides), base_side, channels)
    return GridSampling().sample(geometry, values, predicted, reference, visible)


@_sample_maps.register_fake
def _(
    values: Tensor,
    predicted: Tensor,
    reference: Tensor,
    visible: Tensor,
    num_heads: int,
    num_points: int,
    sides: Sequence[int],
    base_side: int,
    channels: int,
) -> Tensor:
    num_rows, num_queries, _ = predicted.shape
    return predicted.new_empty(num_rows, num_queries, num_heads, channels + GridSampling.extra)


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
