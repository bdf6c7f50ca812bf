"""Grid sampling as weighted sums of table rows, by `embedding_bag`, on any device.

Legend: B batch, L queries, V positions of all maps, T tokens, H heads, P points, S maps, I images,
C channels, d width of a head, N slots, K bilinear neighbours along an axis.

`sample_by_gather` reads dense maps of any shape. `sample` reads paged vectors and is the reference
of all kernels; `model.synchronizer.kernels.choice.Kernel` describes them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from model.synchronizer.geometry import Geometry, Sight

_SAMPLES_AT_ONCE = 1 << 20


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


def sample(
    query_TX: Tensor, relative_RX: Tensor, features_NW: Tensor, sight: Sight, geometry: Geometry
) -> Tensor:
    """The kernel in PyTorch, some tokens at a time."""
    num_tokens = len(sight.request_T)
    samples = geometry.num_logits * 4 * max(1, geometry.max_images)
    chunk = max(1, _SAMPLES_AT_ONCE // samples)
    chunks = [slice(at, min(at + chunk, num_tokens)) for at in range(0, num_tokens, chunk)]
    parts = [
        _sample_chunk(query_TX, relative_RX, features_NW, sight, geometry, tokens)
        for tokens in chunks
    ]
    return torch.cat(parts)


def _sample_chunk(
    query_TX: Tensor,
    relative_RX: Tensor,
    features_NW: Tensor,
    sight: Sight,
    geometry: Geometry,
    tokens: slice,
) -> Tensor:
    """`sample` for a few tokens."""
    query_TX = query_TX[tokens]
    image_I = torch.arange(geometry.max_images, device=query_TX.device)
    count_T1 = sight.count_T[tokens, None]
    seen_TI = (image_I >= sight.base_T[tokens, None]) & (image_I < count_T1)
    relative_TI = torch.where(seen_TI, count_T1 - image_I, 0)
    query_TIX = (query_TX[:, None] + relative_RX[relative_TI]).float()
    weights_TIHSP, ignored_TH = _weights(query_TIX[..., geometry.num_offsets :], seen_TI, geometry)
    token_T = torch.arange(tokens.start, tokens.stop, device=query_TX.device)
    reference_T2 = sight.reference_P2[token_T % len(sight.reference_P2)]
    vectors_TIHSP4, corners_TIHSP4 = _corners(
        query_TIX[..., : geometry.num_offsets], reference_T2, geometry
    )
    corners_TIHSP4 = corners_TIHSP4 * weights_TIHSP[..., None]
    rows_TIHSP4 = _rows(vectors_TIHSP4, sight, geometry, tokens)
    rows_BN = rows_TIHSP4.transpose(1, 2).flatten(2).flatten(0, 1)
    corners_BN = corners_TIHSP4.transpose(1, 2).flatten(2).flatten(0, 1)
    sampled_BC = F.embedding_bag(
        rows_BN,
        features_NW.view(-1, geometry.channels),
        per_sample_weights=corners_BN.to(features_NW.dtype),
        mode="sum",
    )
    shape = (len(query_TX), geometry.num_heads)
    parts = (
        sampled_BC.view(*shape, -1),
        ignored_TH[..., None],
        corners_BN.sum(1).view(*shape, 1),
    )
    return torch.cat([part.to(query_TX.dtype) for part in parts], -1)


def _weights(logits_TIX: Tensor, seen_TI: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
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


def _corners(
    offsets_TIX: Tensor, reference_T2: Tensor, geometry: Geometry
) -> tuple[Tensor, Tensor]:
    """The four neighbours of each sampling place on each map, and their bilinear weights."""
    offsets_TIHP2 = offsets_TIX.view(*offsets_TIX.shape[:2], geometry.num_heads, -1, 2)
    places_TIHP2 = reference_T2[:, None, None, None] + offsets_TIHP2 / geometry.base_side
    device = offsets_TIX.device
    side_S1 = torch.tensor(geometry.sides, device=device)[:, None]
    first_S111 = torch.tensor(geometry.level_starts, device=device).view(-1, 1, 1, 1)
    x_TIHSPK, x_share_TIHSPK = _neighbours(places_TIHP2[..., 0].unsqueeze(3), side_S1)
    y_TIHSPK, y_share_TIHSPK = _neighbours(places_TIHP2[..., 1].unsqueeze(3), side_S1)
    line_TIHSPK1 = y_TIHSPK[..., None] * side_S1[..., None, None]
    vectors_TIHSPKK = first_S111 + line_TIHSPK1 + x_TIHSPK[..., None, :]
    weights_TIHSPKK = y_share_TIHSPK[..., None] * x_share_TIHSPK[..., None, :]
    return vectors_TIHSPKK.flatten(-2), weights_TIHSPKK.flatten(-2)


def _rows(vectors_TIHSP4: Tensor, sight: Sight, geometry: Geometry, tokens: slice) -> Tensor:
    """Rows of the table of single vectors in which an image's vectors lie."""
    request_T = sight.request_T[tokens]
    start_TI = sight.image_start_RI[request_T, : geometry.max_images]
    packed = geometry.vectors_per_token
    place = start_TI[:, :, None, None, None, None] + vectors_TIHSP4 // packed
    last = sight.block_table_RW.shape[1] - 1
    block = sight.block_table_RW[
        request_T[:, None, None, None, None, None], (place // sight.block_size).clamp_(max=last)
    ]
    table = (block * sight.block_size + place % sight.block_size) * geometry.num_tables
    if geometry.own_vectors:
        table += torch.arange(geometry.num_heads, device=table.device)[:, None, None, None]
    return table * packed + vectors_TIHSP4 % packed
