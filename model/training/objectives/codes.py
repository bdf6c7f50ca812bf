"""What image tokens shall say: codes of the facts of a picture.

A code is a random vector, one for each value of each kind of fact. Every image token stands for a
place where a thing can stand, a quarter of the tokens for each, or for the background; it shall be
the sum of the codes of what is true there.

Legend: N pictures, T image tokens, D their width, F facts of a place, W values of a fact.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import MMInterleavedConfig
from model.training.objectives.facts import FACTS, UNKNOWN, fact_targets, values_by_place
from model.training.world.scene import SLOTS, Scene

_SCALE = 16.0  # Of a fact's own code among three others: a logit of 8, of all others about 0.


def code_loss(tokens_NTD: Tensor, scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """How far image tokens are from what they shall be, a scalar.

    The mean squared distance from the codes, and the cross-entropy of each fact as the codes of its
    values tell it from the mean of a place's tokens. A kind of thing is one of many, and hardly
    moves the distance before it is known nearly for certain.
    """
    tokens_NTD = tokens_NTD.float()
    distance = F.mse_loss(tokens_NTD, codes_of(scenes, config).to(tokens_NTD.device))
    targets_NF = fact_targets(scenes).to(tokens_NTD.device)
    size = tokens_NTD.shape[1] // (len(SLOTS) + 1)
    losses = []
    for index, (name, values) in enumerate(FACTS.items()):
        slot, _, _ = name.rpartition(" ")
        first = size * list(SLOTS).index(slot) if slot else size * len(SLOTS)
        last = first + size if slot else tokens_NTD.shape[1]
        mean_ND = tokens_NTD[:, first:last].mean(1)
        logits_NW = mean_ND @ _codes(values, mean_ND.shape[-1]).to(mean_ND.device).T
        logits_NW = logits_NW * (_SCALE / mean_ND.shape[-1])
        targets_N = targets_NF[:, index]
        losses.append(F.cross_entropy(logits_NW, targets_N, ignore_index=UNKNOWN, reduction="sum"))
    return distance + torch.stack(losses).sum() / (targets_NF != UNKNOWN).sum()


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
    total: Tensor = _codes(tuple(values), width).sum(0) / len(values) ** 0.5
    return total


@lru_cache(maxsize=256)
def _codes(values: tuple[str, ...], width: int) -> Tensor:
    return torch.stack([_code(value, width) for value in values])


@lru_cache(maxsize=256)
def _code(value: str, width: int) -> Tensor:
    """The random vector of a value, a function of its name."""
    generator = torch.Generator().manual_seed(zlib.crc32(value.encode()))
    return torch.randn(width, generator=generator)
