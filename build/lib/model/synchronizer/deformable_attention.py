"""Deformable attention: bilinear sampling of feature maps at learned places, weighted and summed.

Legend: B batch, L queries, V positions of all maps, S maps (levels), H heads, P points, d width of
a head, D width.

Places are relative to a map: (0, 0) is its top left corner, (1, 1) its bottom right one; samples
outside of it are zero.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.device.stream import upload
from model.synchronizer.kernels.gather import sample_by_gather
from model.synchronizer.kernels.grid import sample_by_grid

# From this width of a head on, fetching rows beats `grid_sample`.
_GATHER_WIDTH = 16


def deformable_attention(
    values_BVHd: Tensor,
    shapes: Sequence[tuple[int, int]],
    places_BLHSP2: Tensor,
    weights_BLHSP: Tensor,
) -> Tensor:
    """Sample maps of the given shapes and sum the samples by weight.

    `sample_by_gather` holds no samples in memory, and reads values in the type and layout in which
    their projection wrote them: for inference, unless heads are narrow and samples many.
    `grid_sample` is one operator to ONNX and TensorRT, and has the cheaper gradient.

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
        size_S12 = torch.tensor([(w, h) for h, w in self.shapes])[:, None]
        size_S12 = upload(size_S12, query_BLD.device)
        places_BLHSP2 = reference_1L2[:, :, None, None, None] + offsets_BLHSP2 / size_S12
        sampled_BLD = deformable_attention(
            values_BVHd, self.shapes, places_BLHSP2, weights_BLHSP.view(B, L, H, S, P)
        )
        return self.output_proj(sampled_BLD)
