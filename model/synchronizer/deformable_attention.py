"""Deformable attention: bilinear sampling of feature maps at learned places, weighted and summed.

Legend: B batch, L queries, V positions of all maps, S maps (levels), H heads, P points, d width of
a head, D width, K bilinear corners.

Two equivalent formulations of the sampling:

* `sample_by_gather` turns every sample into four weighted rows of the value table and sums them in
  one `embedding_bag`. No intermediate holds the samples, and values keep the type and the layout
  in which their projection wrote them. For inference, unless heads are narrow and samples many.
* `sample_by_grid` uses `grid_sample`, which ONNX and TensorRT know as one operator, and whose
  gradient is the cheaper one.

Places are relative to a map: (0, 0) is its top left corner, (1, 1) its bottom right one; samples
outside of it are zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# From this width of a head on, fetching rows beats `grid_sample`.
_GATHER_WIDTH = 16


def deformable_attention(
    values_BVHd: Tensor,
    shapes: Sequence[tuple[int, int]],
    places_BLHSP2: Tensor,
    weights_BLHSP: Tensor,
) -> Tensor:
    """Sample maps of the given shapes and sum the samples by weight.

    Args:
        values_BVHd: the maps' positions, row by row, one map after the other.
        shapes: (height, width) of each map.
        places_BLHSP2: (x, y) relative to the map; float32.
        weights_BLHSP: weight of every sample.

    Returns:
        [B, L, H * d] in the values' type.
    """
    traced = torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export()
    trained = torch.is_grad_enabled() and values_BVHd.requires_grad
    _, num_queries, _, num_maps, num_points, _ = places_BLHSP2.shape
    # A pass over the maps pays for many samples of few channels, not for a single token's.
    dense = num_queries * num_maps * num_points > values_BVHd.shape[1]
    if traced or trained or (dense and values_BVHd.shape[-1] < _GATHER_WIDTH):
        return sample_by_grid(values_BVHd, shapes, places_BLHSP2, weights_BLHSP)
    return sample_by_gather(values_BVHd, shapes, places_BLHSP2, weights_BLHSP)


def sample_by_grid(
    values_BVHd: Tensor,
    shapes: Sequence[tuple[int, int]],
    places_BLHSP2: Tensor,
    weights_BLHSP: Tensor,
) -> Tensor:
    """`deformable_attention` through `grid_sample`; samples and sums in float32."""
    B, _, H, d = values_BVHd.shape
    L = places_BLHSP2.shape[1]
    maps_NdV = values_BVHd.permute(0, 2, 3, 1).reshape(B * H, d, -1).float()
    grid_SNLP2 = (2 * places_BLHSP2.float() - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)
    weights_SNLP = weights_BLHSP.float().permute(3, 0, 2, 1, 4).flatten(1, 2)
    out_NdL = maps_NdV.new_zeros(1)
    # Split at once: the gradient of a slice is as large as the whole, and there are many maps.
    levels = maps_NdV.split([math.prod(shape) for shape in shapes], 2)
    for level_NdV, shape, grid_NLP2, weights_NLP in zip(
        levels, shapes, grid_SNLP2.unbind(0), weights_SNLP.unbind(0), strict=True
    ):
        samples_NdLP = F.grid_sample(level_NdV.unflatten(2, shape), grid_NLP2, align_corners=False)
        out_NdL = out_NdL + (samples_NdLP * weights_NLP[:, None]).sum(-1)
    out_BLD = out_NdL.view(B, H * d, L).transpose(1, 2)
    return out_BLD.to(values_BVHd.dtype)


def sample_by_gather(
    values_BVHd: Tensor,
    shapes: Sequence[tuple[int, int]],
    places_BLHSP2: Tensor,
    weights_BLHSP: Tensor,
) -> Tensor:
    """`deformable_attention` as one weighted sum of table rows for each query and head."""
    B, V, H, d = values_BVHd.shape
    L, device = places_BLHSP2.shape[1], values_BVHd.device
    height_S1, width_S1 = torch.tensor(shapes, device=device).T.unsqueeze(-1)
    x_BLHSPK, x_share_BLHSPK = _neighbours(places_BLHSP2[..., 0], width_S1)
    y_BLHSPK, y_share_BLHSPK = _neighbours(places_BLHSP2[..., 1], height_S1)
    y_share_BLHSPK = y_share_BLHSPK * weights_BLHSP.float()[..., None]

    # A row of the table is a batch, a position, a head. Both sums are small; the big ones below,
    # with four corners a sample, are formed in a single operation each.
    start_S11 = torch.tensor(_starts(shapes), device=device).view(-1, 1, 1)
    batch_B = torch.arange(B, device=device).view(B, 1, 1, 1, 1, 1)
    head_H = torch.arange(H, device=device).view(H, 1, 1, 1)
    line_BLHSPK = (batch_B * V + start_S11 + y_BLHSPK * width_S1[..., None]) * H + head_H
    index_BLHSPKK = line_BLHSPK[..., :, None] + (x_BLHSPK * H)[..., None, :]
    share_BLHSPKK = y_share_BLHSPK[..., :, None] * x_share_BLHSPK[..., None, :]
    out_ND = F.embedding_bag(
        index_BLHSPKK.flatten(3).flatten(0, 2),
        values_BVHd.reshape(B * V * H, d),
        per_sample_weights=share_BLHSPKK.flatten(3).flatten(0, 2).to(values_BVHd.dtype),
        mode="sum",
    )
    return out_ND.view(B, L, H * d)


def _neighbours(place: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """The two cells around each place along an axis, and each one's share of the sample.

    Cells outside of the map are replaced by one inside, with no share.
    """
    place = place.float() * size - 0.5
    low = place.detach().floor()
    above = place - low
    # Far outside would overflow integers; one step outside is as good.
    low = low.clamp(min=-2).minimum(size + 1.0).long()
    cell = torch.stack((low, low + 1), -1)
    inside_cell = cell.clamp(min=0).minimum(size[..., None] - 1)
    share = torch.stack((1 - above, above), -1) * (cell == inside_cell)
    return inside_cell, share


def _starts(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """Offset of every map in the concatenated positions."""
    return list(accumulate((math.prod(shape) for shape in shapes), initial=0))[:-1]


def grid_centers(shapes: Sequence[tuple[int, int]], device: torch.device | None = None) -> Tensor:
    """Relative centers (x, y) of all cells of grids with (height, width): [1, L, 2] float32."""
    grids = []
    for height, width in shapes:
        y_H = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
        x_W = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
        y_HW, x_HW = torch.meshgrid(y_H, x_W, indexing="ij")
        grids.append(torch.stack((x_HW, y_HW), -1).flatten(0, 1))
    return torch.cat(grids).unsqueeze(0)


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention of the ViT-Adapter, on the maps of one image."""

    def __init__(
        self,
        width: int,
        shapes: Sequence[tuple[int, int]],
        n_heads: int,
        n_points: int,
        ratio: float,
    ) -> None:
        super().__init__()
        self.shapes = tuple(shapes)
        self.n_heads = n_heads
        self.n_points = n_points
        num_samples = n_heads * len(self.shapes) * n_points
        inner = int(width * ratio)
        if inner % n_heads:
            raise ValueError(f"{n_heads} heads can't share {inner} channels evenly")
        self.sampling_offsets = nn.Linear(width, num_samples * 2)
        self.attention_weights = nn.Linear(width, num_samples)
        self.value_proj = nn.Linear(width, inner)
        self.output_proj = nn.Linear(inner, width)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sample on rays, one direction a head, at first; weigh all samples alike."""
        angle_H = torch.arange(self.n_heads) * (2 * math.pi / self.n_heads)
        ray_H2 = torch.stack((angle_H.cos(), angle_H.sin()), -1)
        ray_H2 = ray_H2 / ray_H2.abs().amax(-1, keepdim=True)
        step_P = torch.arange(1, self.n_points + 1)
        ray_HSP2 = ray_H2[:, None, None] * step_P[:, None]
        self.sampling_offsets.weight.zero_()
        self.sampling_offsets.bias.copy_(ray_HSP2.expand(-1, len(self.shapes), -1, -1).flatten())
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)

    def forward(self, query_BLD: Tensor, reference_1L2: Tensor, features_BVD: Tensor) -> Tensor:
        """Let each query read the maps around its reference point.

        Args:
            query_BLD: queries.
            reference_1L2: relative (x, y) of the queries; float32.
            features_BVD: positions of the maps, one map after the other.

        Returns:
            [B, L, D]
        """
        B, L, _ = query_BLD.shape
        H, S, P = self.n_heads, len(self.shapes), self.n_points
        values_BVHd = self.value_proj(features_BVD).unflatten(-1, (H, -1))
        offsets_BLHSP2 = self.sampling_offsets(query_BLD).view(B, L, H, S, P, 2).float()
        weights_BLHSP = self.attention_weights(query_BLD).view(B, L, H, S * P).softmax(-1)
        size_S12 = torch.tensor([(w, h) for h, w in self.shapes], device=query_BLD.device)[:, None]
        places_BLHSP2 = reference_1L2[:, :, None, None, None] + offsets_BLHSP2 / size_S12
        sampled_BLD = deformable_attention(
            values_BVHd, self.shapes, places_BLHSP2, weights_BLHSP.view(B, L, H, S, P)
        )
        out_BLD: Tensor = self.output_proj(sampled_BLD)
        return out_BLD
