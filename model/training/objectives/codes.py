"""What image tokens shall say: codes of the facts of a picture.

A code is a random vector, one for each value of each kind of fact. Every image token stands for a
place where a thing can stand, a quarter of the tokens for each, or for the background; it shall be
the sum of the codes of what is true there.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from model.config import MMInterleavedConfig
from model.training.objectives.facts import values_by_place
from model.training.world.scene import Scene


def codes_of(scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """What the image tokens of some scenes shall be, [N, T, D], with a variance of one."""
    perceiver = config.image_decoder.perceiver
    number = perceiver.num_queries
    rows = []
    for scene in scenes:
        places = [_sum_of(values, perceiver.hidden_size) for values in values_by_place(scene)]
        spread = [place for place in places for _ in range(number // len(places))]
        rows.append(torch.stack(spread + places[-1:] * (number - len(spread))))
    return torch.stack(rows)


def _sum_of(values: Sequence[str], width: int) -> Tensor:
    codes = torch.stack([_code(value, width) for value in values])
    total: Tensor = codes.sum(0) / len(values) ** 0.5
    return total


@lru_cache(maxsize=256)
def _code(value: str, width: int) -> Tensor:
    """The random vector of a value, a function of its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(value.encode()))
    return torch.randn(width, generator=generator)
