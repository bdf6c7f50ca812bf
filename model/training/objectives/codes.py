"""What image tokens shall say: codes of the facts of a picture.

A code is a random vector, one for each value of each kind of fact. Every image token stands for a
place where a thing can stand, a quarter of the tokens for each, or for the background; it shall be
the sum of the codes of what is true there.

Legend: N pictures, T image tokens, D their width.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.training.objectives.facts import (
    FACTS,
    fact_logits,
    fact_loss,
    fact_targets,
    tokens_by_place,
    values_by_place,
)
from model.training.world.scene import Scene

_SCALE = 16.0  # Of a fact's own code among three others: a logit of 8, of all others about 0.


def code_loss(tokens_NTD: Tensor, scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """How far image tokens are from what they shall be, a scalar.

    The mean squared distance from the codes, and the cross-entropy of each fact as the codes of its
    values tell it from the mean of a place's tokens. A kind of thing is one of many, and hardly
    moves the distance before it is known nearly for certain.
    """
    tokens_NTD = tokens_NTD.float()
    device, width = tokens_NTD.device, tokens_NTD.shape[-1]
    distance = F.mse_loss(tokens_NTD, codes_of(scenes, config).to(device))
    codes = {name: _codes(values, width) for name, values in FACTS.items()}
    logits = fact_logits(tokens_NTD, codes, _SCALE / width)
    return distance + fact_loss(logits, fact_targets(scenes).to(device))


def codes_of(scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """What the image tokens of some scenes shall be, [N, T, D], with a variance of one."""
    perceiver = config.image_decoder.perceiver
    counts = torch.tensor([len(tokens) for tokens in tokens_by_place(perceiver.num_queries)])
    rows = []
    for scene in scenes:
        places = [_codes(values, perceiver.hidden_size) for values in values_by_place(scene)]
        sums = torch.stack([codes.sum(0) / len(codes) ** 0.5 for codes in places])
        rows.append(sums.repeat_interleave(counts, 0))
    return torch.stack(rows)


def _codes(values: Sequence[str], width: int) -> Tensor:
    return torch.stack([_code(value, width) for value in values])


@lru_cache(maxsize=256)
def _code(value: str, width: int) -> Tensor:
    """The random vector of a value, a function of its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(value.encode()))
    return torch.randn(width, generator=generator)
