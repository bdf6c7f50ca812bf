"""Sine-cosine position tables.

Legend: L positions, C channels, G side of a square grid.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_1d(channels: int, positions_L: np.ndarray) -> np.ndarray:
    """Sines, then cosines, of the positions at geometrically falling frequencies: [L, C].

    Computed as the published tables were, in float32 for float32 positions.
    """
    frequency_C = np.arange(channels // 2, dtype=np.float32)
    frequency_C /= channels / 2.0
    frequency_C = 1.0 / 10000**frequency_C
    angle_LC = np.einsum("l,c->lc", positions_L, frequency_C)
    return np.concatenate([np.sin(angle_LC), np.cos(angle_LC)], axis=1)


def sequence_table(channels: int, length: int) -> Tensor:
    """Positions 0 .. length - 1: [L, C] float32."""
    return torch.from_numpy(sincos_1d(channels, np.arange(length, dtype=np.float32))).float()


def grid_table(channels: int, side: int, cls_token: bool = False) -> Tensor:
    """Cells of a square grid, row by row, rows in the first half of the channels: [G * G, C].

    With `cls_token` a row of zeros comes first.
    """
    if torch.get_default_device().type == "meta":
        return torch.empty(side * side + cls_token, channels)
    row_L, column_L = np.divmod(np.arange(side * side), side)
    table_LC = np.concatenate(
        [sincos_1d(channels // 2, axis.astype(np.float32)) for axis in (row_L, column_L)], axis=1
    )
    if cls_token:
        table_LC = np.concatenate([np.zeros((1, channels)), table_LC])
    return torch.from_numpy(table_LC).float()


def resize_grid(table_LC: Tensor, height: int, width: int) -> Tensor:
    """Bicubic resize of a square grid's table to another grid: [height * width, C]."""
    side = int(table_LC.shape[0] ** 0.5)
    if (height, width) == (side, side):
        return table_LC
    map_1CGG = table_LC.float().unflatten(0, (side, side)).permute(2, 0, 1).unsqueeze(0)
    map_1CHW = F.interpolate(map_1CGG, size=(height, width), mode="bicubic", align_corners=False)
    return map_1CHW[0].flatten(1).T.to(table_LC.dtype)
