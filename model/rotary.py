"""Rotary positions, as Llama has them.

Legend: B batch, L tokens, H heads, d width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model.config import LanguageModelConfig


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
