"""What a cell of an image looks like, in few numbers: its low frequencies, as in JPEG.

64 of them tell 98 % of the variance of an autoencoder's latents of 8 x 8 pixels where things are;
as many mean colours tell 80 %.

Legend: C side of a cell in pixels, P the numbers that tell it, F frequencies of one channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import product

import torch
from torch import Tensor

_LUMA, _CHROMA, _OPACITY = 36, 14, 21  # Frequencies of each channel.
_COARSE_LUMA, _COARSE_CHROMA = 6, 3  # A cell once and half a cell.
# Y, Cb and Cr of ITU-R BT.601, as JPEG takes them.
_CHANNELS = ((0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081))
NUM_COLOURS = _LUMA + 2 * _CHROMA
NUM_LOOKS = NUM_COLOURS + _OPACITY
# A frequency counts by about the square root of how strong it usually is.
_LOUDNESS, _SLOPE = 0.35, 0.75


def colours_of(pixels_KCC3: Tensor) -> Tensor:
    """The colours of cells, [K, P] for P = `NUM_COLOURS`."""
    return torch.einsum("kyxc,pcyx->kp", pixels_KCC3, _colours(pixels_KCC3.shape[1]))


def coarse_colours_of(pixels_KCC3: Tensor) -> Tensor:
    """The lowest frequencies among the colours of cells, [K, P]."""
    channels = colours_of(pixels_KCC3).split((_LUMA, _CHROMA, _CHROMA), 1)
    numbers = (_COARSE_LUMA, _COARSE_CHROMA, _COARSE_CHROMA)
    coarse = [x_KP[:, :number] for x_KP, number in zip(channels, numbers, strict=True)]
    return torch.cat(coarse, 1)


def looks_of(pixels_KCC4: Tensor) -> Tensor:
    """The colours of cells, times their opacity, and the opacity, [K, P] for P = `NUM_LOOKS`."""
    colours_KP = colours_of(pixels_KCC4[..., :3])
    waves_FCC = _waves(pixels_KCC4.shape[1], _OPACITY)
    opacity_KF = torch.einsum("kyx,fyx->kf", pixels_KCC4[..., 3], waves_FCC)
    return torch.cat((colours_KP, opacity_KF), 1)


@cache
def _colours(side: int) -> Tensor:
    """What each number of a cell's colours measures, [P, 3, C, C]."""
    parts = [
        torch.einsum("c,fyx->fcyx", torch.tensor(channel), _waves(side, number))
        for channel, number in zip(_CHANNELS, (_LUMA, _CHROMA, _CHROMA), strict=True)
    ]
    return torch.cat(parts)


@cache
def _waves(side: int, number: int) -> Tensor:
    """The products of cosines (DCT-II) that turn the slowest, made louder, [F, C, C]."""
    turns, places = torch.arange(side)[:, None], torch.arange(side) + 0.5
    cosines_CC = torch.cos(math.pi / side * turns * places) * math.sqrt(2 / side)
    cosines_CC[0] /= math.sqrt(2)
    waves = [
        _LOUDNESS * (1 + down + across) ** _SLOPE * cosines_CC[down, :, None] * cosines_CC[across]
        for down, across in _slowest(side, number)
    ]
    return torch.stack(waves)


def _slowest(side: int, number: int) -> Sequence[tuple[int, int]]:
    """How often the waves turn, down and across: the lowest sums first."""
    pairs = product(range(side), range(side))
    return sorted(pairs, key=lambda turns: (sum(turns), max(turns)))[:number]
