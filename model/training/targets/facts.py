"""Facts of scenes as targets: linear readouts of features, and codes of image tokens.

A code is a random vector for each value of each kind of fact. Every image token stands for a slot,
a quarter of the tokens for each, or for the background; its target is the sum of the codes of its
place.

Legend: N images, F facts, T image tokens, L positions, D width, W values of a fact.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.training.world.drawn.scene import (
    FACTS,
    SLOTS,
    Scene,
    facts_of,
    place_of,
    values_by_place,
)

_NUM_VALUES = [len(values) for values in FACTS.values()]
_UNKNOWN = -100


def tokens_by_place(number: int) -> list[range]:
    """The tokens of each slot, and last those of the background, which gets the rest."""
    size = number // (len(SLOTS) + 1)
    slots = [range(index * size, (index + 1) * size) for index in range(len(SLOTS))]
    return [*slots, range(len(SLOTS) * size, number)]


def fact_targets(scenes: Sequence[Scene]) -> Tensor:
    """The index of the true value of every fact, [N, F]; -100 where it does not apply."""
    return torch.tensor([_row(facts_of(scene)) for scene in scenes])


def _row(truth: Mapping[str, str]) -> list[int]:
    return [
        values.index(truth[name]) if name in truth else _UNKNOWN for name, values in FACTS.items()
    ]


def fact_logits(tokens_NTD: Tensor, values: Mapping[str, Tensor], scale: float) -> list[Tensor]:
    """Scaled dot products of each value's vector and the mean token of its place, by fact.

    `values` has the vectors [W, D] of every fact, by the names in `FACTS`.
    """
    tokens_NTD = tokens_NTD.float()
    means = [
        tokens_NTD[:, tokens.start : tokens.stop].mean(1)
        for tokens in tokens_by_place(tokens_NTD.shape[1])
    ]
    return [
        means[place_of(name)] @ values_WD.to(tokens_NTD.device).T * scale
        for name, values_WD in values.items()
    ]


def fact_loss(logits: Sequence[Tensor], targets_NF: Tensor) -> Tensor:
    """Mean cross-entropy of the facts that apply, from each fact's logits [N, W]."""
    losses = [
        F.cross_entropy(logits_NW, target_N, reduction="sum", ignore_index=_UNKNOWN)
        for logits_NW, target_N in zip(logits, targets_NF.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / (targets_NF != _UNKNOWN).sum()


class FactReadout(nn.Module):
    """Reads every fact from normalised, flattened features by one linear map."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, sum(_NUM_VALUES))

    def forward(self, features_NLD: Tensor, targets_NF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the facts that apply, and the share that is right."""
        normalised_NLD = F.layer_norm(features_NLD, features_NLD.shape[-1:])
        parts = self.linear(normalised_NLD.flatten(1)).split(_NUM_VALUES, 1)
        guesses_NF = torch.stack([part_NV.argmax(1) for part_NV in parts], 1)
        num_right = (guesses_NF == targets_NF).sum()
        return fact_loss(parts, targets_NF), num_right / (targets_NF != _UNKNOWN).sum()


_SCALE = 16.0  # Of a fact's own code among three others: a logit of 8, of all others about 0.


def code_loss(tokens_NTD: Tensor, scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """The mean squared distance from the codes plus the cross-entropy of the facts, a scalar.

    The facts are read by their codes from the mean token of each place. The distance alone teaches
    kinds of things late: one of many kinds hardly changes it until it is nearly certain.
    """
    tokens_NTD = tokens_NTD.float()
    device, width = tokens_NTD.device, tokens_NTD.shape[-1]
    distance = F.mse_loss(tokens_NTD, codes_of(scenes, config).to(device))
    codes = {name: _codes(values, width) for name, values in FACTS.items()}
    logits = fact_logits(tokens_NTD, codes, _SCALE / width)
    return distance + fact_loss(logits, fact_targets(scenes).to(device))


def codes_of(scenes: Sequence[Scene], config: MMInterleavedConfig) -> Tensor:
    """The target image tokens of some scenes, [N, T, D], with a variance of one."""
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
