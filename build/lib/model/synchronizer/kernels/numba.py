"""The fused kernel for CPUs in float32, compiled by numba: no C++ compiler is needed.

Softmax, bilinear weights and sums of a token and head are formed in one pass: no tensor of samples
or weights exists.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.synchronizer.geometry import EXTRA, Geometry, Sight


def available() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


class NumbaKernel:
    """A `Kernel` for float32 tensors in main memory, without gradients."""

    def __init__(self, geometry: Geometry) -> None:
        self.geometry = geometry
        self._function = _compiled()
        sides_S = np.array(geometry.sides)
        self._maps_S2 = np.stack((sides_S, np.array(geometry.level_starts)), 1)
        # Divisions take longer than what is done with a corner: once for every vector of an image.
        vector_V = np.arange(geometry.image_tokens * geometry.vectors_per_token)
        slot_V, packed_V = np.divmod(vector_V, geometry.vectors_per_token)
        self._slots_V2 = np.stack((slot_V, packed_V), 1)

    def __call__(
        self, query_TX: Tensor, relative_RX: Tensor, features_NW: Tensor, sight: Sight
    ) -> Tensor:
        """Sample; see `Kernel`. Each thread takes a share of the heads, with all tokens."""
        geometry, num_tokens = self.geometry, len(sight.request_T)
        out_THC = torch.empty(num_tokens, geometry.num_heads, geometry.channels + EXTRA)
        arguments = (
            query_TX[:num_tokens].contiguous().numpy(),
            relative_RX.contiguous().numpy(),
            features_NW.view(-1, geometry.channels).numpy(),
            torch.stack((sight.request_T, sight.base_T, sight.count_T), 1).numpy(),
            sight.image_start_RI.contiguous().numpy(),
            sight.block_table_RW.contiguous().numpy(),
            sight.reference_P2.contiguous().numpy(),
            self._maps_S2,
            self._slots_V2,
            (geometry.num_heads, geometry.num_points, geometry.num_tables),
            (sight.block_size, geometry.vectors_per_token, geometry.image_tokens),
            np.float32(geometry.base_side),
            out_THC.numpy(),
        )
        pool, num_threads = _pool(), torch.get_num_threads()
        num_tasks = num_tokens * geometry.num_heads
        cuts = [num_tasks * i // num_threads for i in range(num_threads + 1)]
        futures = [
            pool.submit(self._function, *arguments, first, last)
            for first, last in zip(cuts, cuts[1:], strict=False)
        ]
        for future in futures:
            future.result()
        return out_THC


@cache
def _pool() -> ThreadPoolExecutor:
    """One pool of threads for the process."""
    return ThreadPoolExecutor(torch.get_num_threads(), thread_name_prefix="sampling")


@cache
def _compiled() -> Callable[..., None]:
    """The function, compiled at its first call."""
    import numba

    return numba.njit(nogil=True, fastmath=True)(_sample_tasks)


def _sample_tasks(  # noqa: C901 - one loop nest, compiled as a whole
    query_TX: Any,
    relative_RX: Any,
    features_NC: Any,
    sight_T3: Any,
    image_start_RI: Any,
    block_table_RW: Any,
    reference_P2: Any,
    maps_S2: Any,
    slots_V2: Any,
    heads_points_tables: Any,
    block_packed_slots: Any,
    base_side: Any,
    out_THC: Any,
    first: int,
    last: int,
) -> None:
    """Sample for the pairs of head and token from `first` to `last`."""
    num_heads, num_points, num_tables = heads_points_tables
    block_size, packed, image_slots = block_packed_slots
    num_tokens, channels = out_THC.shape[0], features_NC.shape[1]
    num_maps = len(maps_S2)
    num_logits = num_maps * num_points
    weights = np.empty(max(1, image_start_RI.shape[1]) * num_logits, np.float32)
    lists = np.empty(image_slots, np.int64)
    total = np.empty(channels, np.float32)
    zero, one, half = np.float32(0), np.float32(1), np.float32(0.5)
    for task in range(first, last):
        head, token = task // num_tokens, task % num_tokens
        request, base, count = sight_T3[token, 0], sight_T3[token, 1], sight_T3[token, 2]
        out = out_THC[token, head]
        out[:] = zero
        if count <= base:
            out[channels] = one
            continue
        first_logit = num_heads * 2 * num_points + head * num_logits
        logits = query_TX[token, first_logit:]
        offsets = query_TX[token, head * 2 * num_points :]
        reference = reference_P2[token % len(reference_P2)]
        largest = zero
        for image in range(base, count):
            added = relative_RX[count - image, first_logit:]
            for k in range(num_logits):
                logit = logits[k] + added[k]
                weights[(image - base) * num_logits + k] = logit
                largest = max(largest, logit)
        ignored = np.exp(-largest)
        mass, inside = ignored, zero
        for k in range((count - base) * num_logits):
            weights[k] = np.exp(weights[k] - largest)
            mass += weights[k]
        total[:] = zero
        for image in range(base, count):
            added = relative_RX[count - image, head * 2 * num_points :]
            for k in range(image_slots):
                place = image_start_RI[request, image] + k
                block = block_table_RW[request, place // block_size]
                slot = block * block_size + place % block_size
                lists[k] = (slot * num_tables + (head if num_tables > 1 else 0)) * packed
            for level in range(num_maps):
                side, start = maps_S2[level, 0], maps_S2[level, 1]
                for point in range(num_points):
                    shift_x = (offsets[2 * point] + added[2 * point]) / base_side
                    shift_y = (offsets[2 * point + 1] + added[2 * point + 1]) / base_side
                    x = (reference[0] + shift_x) * side - half
                    y = (reference[1] + shift_y) * side - half
                    if not (-one < x < side and -one < y < side):
                        continue
                    left, top = int(np.floor(x)), int(np.floor(y))
                    right_part, low_part = np.float32(x - left), np.float32(y - top)
                    # A corner outside the map weighs nothing; any vector will do for it.
                    left_part = one - right_part if left >= 0 else zero
                    top_part = one - low_part if top >= 0 else zero
                    right_part = right_part if left + 1 < side else zero
                    low_part = low_part if top + 1 < side else zero
                    right, low = min(left + 1, side - 1), min(top + 1, side - 1)
                    left, top = max(left, 0), max(top, 0)
                    weight = weights[(image - base) * num_logits + level * num_points + point]
                    nw, ne = weight * top_part * left_part, weight * top_part * right_part
                    sw, se = weight * low_part * left_part, weight * low_part * right_part
                    v_nw, v_ne = start + top * side + left, start + top * side + right
                    v_sw, v_se = start + low * side + left, start + low * side + right
                    if image_slots == 1:  # dense maps: the image's vectors lie in a row
                        n_nw, n_ne = lists[0] + v_nw, lists[0] + v_ne
                        n_sw, n_se = lists[0] + v_sw, lists[0] + v_se
                    else:
                        n_nw = lists[slots_V2[v_nw, 0]] + slots_V2[v_nw, 1]
                        n_ne = lists[slots_V2[v_ne, 0]] + slots_V2[v_ne, 1]
                        n_sw = lists[slots_V2[v_sw, 0]] + slots_V2[v_sw, 1]
                        n_se = lists[slots_V2[v_se, 0]] + slots_V2[v_se, 1]
                    at_nw, at_ne = features_NC[n_nw], features_NC[n_ne]
                    at_sw, at_se = features_NC[n_sw], features_NC[n_se]
                    inside += nw + ne + sw + se
                    for c in range(channels):
                        total[c] += nw * at_nw[c] + ne * at_ne[c] + sw * at_sw[c] + se * at_se[c]
        for c in range(channels):
            out[c] = total[c] / mass
        out[channels] = ignored / mass
        out[channels + 1] = inside / mass
