"""Deformable sampling out of the paged feature cache: reference implementation.

Legend: T tokens, H heads, P points, S maps, I images, C channels, N cache slots.

The result is not projected yet. Sampling and projecting are both linear, so projecting the few
sampled vectors of a token equals projecting all of the image's vectors first, and no projected
copy of the features need be kept. Two more columns say how much of the softmax' mass fell inside
the maps (it carries the projection's bias) and on the ignore token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.plan import StepPlan

EXTRA = 2
_SAMPLES_AT_ONCE = 1 << 20


def sample(
    query_TX: torch.Tensor,
    relative_RX: torch.Tensor,
    features_NW: torch.Tensor,
    plan: StepPlan,
    geometry: Geometry,
) -> torch.Tensor:
    """Gather what each token and head looks at.

    Args:
        query_TX: offsets [H, P, 2] and logits [H, S, P] of each token, before the image's part.
        relative_RX: the same numbers by relative index of an image, to be added.
        features_NW: cache rows, one per slot, `vectors_per_token` vectors each.
        plan: images in sight.
        geometry: sizes.

    Returns:
        [H, T, C + 2]: weighted sum of feature vectors, mass inside the maps, ignored mass.
    """
    num_tokens = len(plan.request_T)
    samples = geometry.num_logits * 4 * max(1, geometry.max_images)
    chunk = max(1, _SAMPLES_AT_ONCE // samples)
    parts = [
        _sample_chunk(
            query_TX[start : min(start + chunk, num_tokens)],
            relative_RX,
            features_NW,
            plan,
            geometry,
            slice(start, min(start + chunk, num_tokens)),
        )
        for start in range(0, num_tokens, chunk)
    ]
    return torch.cat(parts, dim=1)


def _sample_chunk(
    query_TX: torch.Tensor,
    relative_RX: torch.Tensor,
    features_NW: torch.Tensor,
    plan: StepPlan,
    geometry: Geometry,
    tokens: slice,
) -> torch.Tensor:
    """`sample` for a few tokens."""
    image_I = torch.arange(geometry.max_images, device=query_TX.device)
    count_T1 = plan.count_T[tokens, None]
    seen_TI = (image_I >= plan.base_T[tokens, None]) & (image_I < count_T1)
    relative_TI = torch.where(seen_TI, count_T1 - image_I, 0)
    query_TIX = (query_TX[:, None] + relative_RX[relative_TI]).float()
    weights_TIHSP, ignored_TH = _weights(query_TIX[..., geometry.num_offsets :], seen_TI, geometry)
    vectors_TIHSP4, corners_TIHSP4 = _corners(query_TIX[..., : geometry.num_offsets], geometry)
    corners_TIHSP4 = corners_TIHSP4 * weights_TIHSP[..., None]
    rows_TIHSP4 = _rows(vectors_TIHSP4, plan, geometry, tokens)
    rows_BN = rows_TIHSP4.transpose(1, 2).flatten(2).flatten(0, 1)
    corners_BN = corners_TIHSP4.transpose(1, 2).flatten(2).flatten(0, 1)
    sampled_BC = F.embedding_bag(
        rows_BN,
        features_NW.view(-1, geometry.channels),
        per_sample_weights=corners_BN.to(features_NW.dtype),
        mode="sum",
    )
    shape = (len(query_TX), geometry.num_heads)
    inside_TH1 = corners_BN.sum(1).view(*shape, 1)
    sampled_THC = sampled_BC.view(*shape, -1).to(query_TX.dtype)
    parts = (sampled_THC, inside_TH1.to(query_TX.dtype), ignored_TH[..., None].to(query_TX.dtype))
    return torch.cat(parts, -1).transpose(0, 1)


def _weights(
    logits_TIX: torch.Tensor, seen_TI: torch.Tensor, geometry: Geometry
) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over all samples in sight and the ignore token's logit, which is 0."""
    num_tokens, num_images = seen_TI.shape
    logits_TIHK = logits_TIX.view(num_tokens, num_images, geometry.num_heads, -1)
    logits_TIHK = logits_TIHK.masked_fill(~seen_TI[..., None, None], -torch.inf)
    logits_THK = logits_TIHK.transpose(1, 2).flatten(2)
    weights_THK = F.pad(logits_THK, (0, 1)).softmax(-1)
    weights_THISP = weights_THK[..., :-1].view(
        num_tokens, geometry.num_heads, num_images, len(geometry.sides), geometry.num_points
    )
    return weights_THISP.transpose(1, 2), weights_THK[..., -1]


def _corners(offsets_TIX: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """The four neighbours of each sampling place on each map, and their bilinear weights.

    A neighbour outside the map gets weight 0 and vector 0.
    """
    offsets_TIHP2 = offsets_TIX.view(*offsets_TIX.shape[:2], geometry.num_heads, -1, 2)
    place_TIHP2 = 0.5 + offsets_TIHP2 / geometry.base_side
    vectors, weights = [], []
    for side, first in zip(geometry.sides, geometry.level_starts, strict=True):
        at_TIHP2 = place_TIHP2 * side - 0.5
        corner_TIHP2 = at_TIHP2.floor()
        x_TIHP2 = torch.stack((corner_TIHP2[..., 0], corner_TIHP2[..., 0] + 1), -1)
        y_TIHP2 = torch.stack((corner_TIHP2[..., 1], corner_TIHP2[..., 1] + 1), -1)
        wx_TIHP2 = _axis_weight(x_TIHP2, at_TIHP2[..., :1], side)
        wy_TIHP2 = _axis_weight(y_TIHP2, at_TIHP2[..., 1:], side)
        x_TIHP2, y_TIHP2 = (axis.clamp(0, side - 1).long() for axis in (x_TIHP2, y_TIHP2))
        vectors.append((first + y_TIHP2[..., :, None] * side + x_TIHP2[..., None, :]).flatten(-2))
        weights.append((wy_TIHP2[..., :, None] * wx_TIHP2[..., None, :]).flatten(-2))
    return torch.stack(vectors, 3), torch.stack(weights, 3)


def _axis_weight(neighbours: torch.Tensor, at: torch.Tensor, side: int) -> torch.Tensor:
    """Linear weight of each neighbour along one axis, 0 outside the map."""
    inside = (neighbours >= 0) & (neighbours < side)
    return (1 - (neighbours - at).abs()) * inside


def _rows(
    vectors_TIHSP4: torch.Tensor, plan: StepPlan, geometry: Geometry, tokens: slice
) -> torch.Tensor:
    """Rows of the cache, as single vectors, in which an image's vectors lie."""
    request_T = plan.request_T[tokens]
    start_TI = plan.image_start_RI[request_T, : geometry.max_images]
    packed = geometry.vectors_per_token
    place = start_TI[:, :, None, None, None, None] + vectors_TIHSP4 // packed
    last = plan.block_table_RW.shape[1] - 1
    block = plan.block_table_RW[
        request_T[:, None, None, None, None, None], (place // plan.block_size).clamp_(max=last)
    ]
    return (block * plan.block_size + place % plan.block_size) * packed + vectors_TIHSP4 % packed
