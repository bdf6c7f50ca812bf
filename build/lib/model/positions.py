"""Position encodings: sine-cosine tables, and the rotary positions of Llama.

Legend: B batch, L positions, C channels, G side of a square grid, H heads, d width of a head.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import LanguageModelConfig


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


def frequencies(config: LanguageModelConfig, device: torch.device | None = None) -> Tensor:
    """How far each pair of channels turns from one token to the next, in radians: [d / 2]."""
    even = torch.arange(0, config.head_width, 2, device=device, dtype=torch.float32)
    return 1.0 / config.rope_theta ** (even / config.head_width)


def rotary_table(
    config: LanguageModelConfig, positions_BL: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [B, 1, L, d] of the rotations at these positions."""
    frequency = frequencies(config, positions_BL.device)
    angle_B1L = positions_BL[:, None, :, None].float() * frequency
    angle_B1Ld = torch.cat((angle_B1L, angle_B1L), -1)
    return angle_B1Ld.cos().to(dtype), angle_B1Ld.sin().to(dtype)


def rotate(x_BHLd: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of channels half a head apart."""
    cos_B1Ld, sin_B1Ld = rotation
    first, second = x_BHLd.chunk(2, -1)
    return x_BHLd * cos_B1Ld + torch.cat((-second, first), -1) * sin_B1Ld
