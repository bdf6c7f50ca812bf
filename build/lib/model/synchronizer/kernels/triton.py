"""The fused kernel in Triton, for CUDA. `sample` in gather.py is its reference.

One program is one token and head. It loops over the images that the token sees, whose number it
reads from device memory: the launch depends on nothing but the number of tokens, so it can be
captured in a CUDA graph.

Legend: T tokens, H heads, P points, S maps, C channels, X numbers of a query.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from model.synchronizer.geometry import EXTRA, Geometry, Sight


@triton.jit
def _axis(place, cell, side):  # type: ignore[no-untyped-def]
    """A neighbour's index along one axis, its linear weight, and whether it is on the map."""
    inside = (cell >= 0) & (cell < side)
    share = tl.where(inside, 1.0 - tl.abs(place - cell), 0.0)
    return tl.where(inside, cell, 0.0).to(tl.int64), share, inside


@triton.jit
def _predicted(query_ptr, part_ptr, at_P, real_P, absent):  # type: ignore[no-untyped-def]
    """Numbers of the query with an image's part added; `absent` for points that do not exist."""
    return tl.load(query_ptr + at_P, real_P, absent) + tl.load(part_ptr + at_P, real_P, 0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _sample_map(  # type: ignore[no-untyped-def]
    features_ptr,
    table_ptr,
    start,
    level_start,
    side,
    x_P,
    y_P,
    weight_P,
    real_P,
    channels,
    block_size,
    vectors_per_token,
    list_of_slot,
    TABLES: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    """The weighted sum of a map's bilinear samples, and the mass that fell inside the map."""
    channel_C = tl.arange(0, CHANNELS_PADDED)
    mass = 0.0
    sum_C = tl.zeros([CHANNELS_PADDED], tl.float32)
    place_x_P = x_P * side - 0.5
    place_y_P = y_P * side - 0.5
    for corner in range(4):
        cell_x_P = tl.floor(place_x_P) + corner % 2
        cell_y_P = tl.floor(place_y_P) + corner // 2
        column_P, share_x_P, inside_x_P = _axis(place_x_P, cell_x_P, side)
        row_P, share_y_P, inside_y_P = _axis(place_y_P, cell_y_P, side)
        used_P = real_P & inside_x_P & inside_y_P
        share_P = tl.where(used_P, weight_P * share_x_P * share_y_P, 0.0)
        mass += tl.sum(share_P, 0)
        vector_P = level_start + row_P * side + column_P
        position_P = start + vector_P // vectors_per_token
        block_P = tl.load(table_ptr + position_P // block_size, used_P, 0)
        slot_P = block_P * block_size + position_P % block_size
        list_P = slot_P * TABLES + list_of_slot
        row_at_P = list_P * vectors_per_token + vector_P % vectors_per_token
        feature_PC = tl.load(
            features_ptr + row_at_P[:, None] * channels + channel_C[None, :],
            used_P[:, None] & (channel_C < channels)[None, :],
            0.0,
        )
        sum_C += tl.sum(share_P[:, None] * feature_PC.to(tl.float32), 0)
    return sum_C, mass


@triton.jit  # type: ignore[untyped-decorator]
def _sample_kernel(  # type: ignore[no-untyped-def]
    query_ptr,
    relative_ptr,
    features_ptr,
    request_ptr,
    base_ptr,
    count_ptr,
    image_start_ptr,
    block_table_ptr,
    reference_ptr,
    sides_ptr,
    starts_ptr,
    out_ptr,
    num_references,
    query_width,
    table_width,
    image_columns,
    channels,
    base_side,
    block_size,
    vectors_per_token,
    HEADS: tl.constexpr,
    POINTS: tl.constexpr,
    LEVELS: tl.constexpr,
    TABLES: tl.constexpr,
    POINTS_PADDED: tl.constexpr,
    CHANNELS_PADDED: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    first = tl.load(base_ptr + token)
    last = tl.load(count_ptr + token)
    request = tl.load(request_ptr + token)
    point_P = tl.arange(0, POINTS_PADDED)
    channel_C = tl.arange(0, CHANNELS_PADDED)
    real_P = point_P < POINTS
    query_ptr += token * query_width
    logits_at = HEADS * POINTS * 2 + head * LEVELS * POINTS
    offset_at_P = (head * POINTS + point_P) * 2
    reference_ptr += token % num_references * 2

    # The highest logit, the ignore token's 0 included.
    highest = 0.0
    for image in range(first, last):
        part_ptr = relative_ptr + (last - image) * query_width
        for level in range(LEVELS):
            at_P = logits_at + level * POINTS + point_P
            logit_P = _predicted(query_ptr, part_ptr, at_P, real_P, -float("inf"))
            highest = tl.maximum(highest, tl.max(logit_P, 0))

    ignored = tl.exp(0.0 - highest)
    total = ignored
    inside_mass = 0.0
    sum_C = tl.zeros([CHANNELS_PADDED], tl.float32)
    for image in range(first, last):
        part_ptr = relative_ptr + (last - image) * query_width
        start = tl.load(image_start_ptr + request * image_columns + image)
        x_P = (
            tl.load(reference_ptr)
            + _predicted(query_ptr, part_ptr, offset_at_P, real_P, 0.0) / base_side
        )
        y_P = (
            tl.load(reference_ptr + 1)
            + _predicted(query_ptr, part_ptr, offset_at_P + 1, real_P, 0.0) / base_side
        )
        for level in range(LEVELS):
            at_P = logits_at + level * POINTS + point_P
            logit_P = _predicted(query_ptr, part_ptr, at_P, real_P, -float("inf"))
            weight_P = tl.exp(logit_P - highest)
            total += tl.sum(weight_P, 0)
            map_C, mass = _sample_map(
                features_ptr,
                block_table_ptr + request * table_width,
                start,
                tl.load(starts_ptr + level),
                tl.load(sides_ptr + level),
                x_P,
                y_P,
                weight_P,
                real_P,
                channels,
                block_size,
                vectors_per_token,
                head if TABLES > 1 else 0,
                TABLES,
                CHANNELS_PADDED,
            )
            sum_C += map_C
            inside_mass += mass

    out_ptr += (token * HEADS + head) * (channels + 2)
    tl.store(out_ptr + channel_C, sum_C / total, channel_C < channels)
    tl.store(out_ptr + channels, ignored / total)
    tl.store(out_ptr + channels + 1, inside_mass / total)


def sample_triton(
    query_TX: Tensor, relative_RX: Tensor, features_NW: Tensor, sight: Sight, geometry: Geometry
) -> Tensor:
    """Sample; see `Kernel`."""
    device, num_tokens = query_TX.device, len(sight.request_T)
    out_THC = torch.empty(num_tokens, geometry.num_heads, geometry.channels + EXTRA, device=device)
    sides_S, level_starts_S = _levels(geometry, device)
    kernel: Any = _sample_kernel
    kernel[(num_tokens, geometry.num_heads)](
        query_TX.float().contiguous(),
        relative_RX.float().contiguous(),
        features_NW,
        sight.request_T,
        sight.base_T,
        sight.count_T,
        sight.image_start_RI,
        sight.block_table_RW.contiguous(),
        sight.reference_P2,
        sides_S,
        level_starts_S,
        out_THC,
        len(sight.reference_P2),
        query_TX.shape[1],
        sight.block_table_RW.shape[1],
        sight.image_start_RI.shape[1],
        geometry.channels,
        geometry.base_side,
        sight.block_size,
        geometry.vectors_per_token,
        HEADS=geometry.num_heads,
        POINTS=geometry.num_points,
        LEVELS=len(geometry.sides),
        TABLES=geometry.num_tables,
        POINTS_PADDED=triton.next_power_of_2(geometry.num_points),
        CHANNELS_PADDED=triton.next_power_of_2(geometry.channels),
    )
    return out_THC


@lru_cache(maxsize=16)
def _levels(geometry: Geometry, device: torch.device) -> tuple[Tensor, Tensor]:
    """Sides and first vectors of the maps; kept, as a CUDA graph can't copy from the host."""
    sides, starts = geometry.sides, geometry.level_starts
    return torch.tensor(sides, device=device), torch.tensor(starts, device=device)
