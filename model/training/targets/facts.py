"""Facts of scenes as targets: linear readouts of features.

Legend: N images, F facts, T tokens, L positions, D width, W values of a fact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.training.world.drawable import Drawable
from model.training.world.facts import Facts
from model.visual_tokenizer.codebook import sections

_UNKNOWN = -100


def fact_targets(images: Sequence[Drawable], facts: Facts) -> Tensor:
    """The index of the true value of every fact, [N, F]; -100 where it does not apply."""
    return torch.tensor([_row(facts.of(image), facts) for image in images])


def _row(truth: Mapping[str, str], facts: Facts) -> list[int]:
    return [
        values.index(truth[name]) if name in truth else _UNKNOWN
        for name, values in facts.values.items()
    ]


def fact_logits(
    tokens_NTD: Tensor, values: Mapping[str, Tensor], scale: float, facts: Facts
) -> list[Tensor]:
    """Scaled dot products of each value's vector and the mean token of its place, by fact.

    `values` has the vectors [W, D] of every fact, by its name.
    """
    tokens_NTD = tokens_NTD.float()
    means = [
        tokens_NTD[:, tokens.start : tokens.stop].mean(1)
        for tokens in sections(tokens_NTD.shape[1], facts.num_places)
    ]
    return [
        means[facts.places[name]] @ values_WD.to(tokens_NTD.device).T * scale
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

    def __init__(self, num_features: int, facts: Facts) -> None:
        super().__init__()
        self.num_values = facts.num_values
        self.linear = nn.Linear(num_features, sum(self.num_values))

    def forward(self, features_NLD: Tensor, targets_NF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the facts that apply, and the share that is right."""
        normalised_NLD = F.layer_norm(features_NLD, features_NLD.shape[-1:])
        parts = self.linear(normalised_NLD.flatten(1)).split(self.num_values, 1)
        guesses_NF = torch.stack([part_NV.argmax(1) for part_NV in parts], 1)
        num_right = (guesses_NF == targets_NF).sum()
        return fact_loss(parts, targets_NF), num_right / (targets_NF != _UNKNOWN).sum()
