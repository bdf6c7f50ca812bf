"""Facts of a scene, and linear readouts of them: the teacher of a small visual tokenizer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.training.world.background import PLACES, TIMES, WEATHERS
from model.training.world.character import EARS, TEXTURES
from model.training.world.objects import ALL_KINDS
from model.training.world.palette import CHARACTER_COLOURS
from model.training.world.scene import SIZES, SLOTS, Scene

_SLOT_FACTS: dict[str, tuple[str, ...]] = {
    "what": ("nothing", "hero", *ALL_KINDS),
    "colour": tuple(CHARACTER_COLOURS),
    "size": tuple(SIZES),
    "texture": TEXTURES,
    "ears": EARS,
}
FACTS: dict[str, tuple[str, ...]] = {
    "place": PLACES,
    "weather": WEATHERS,
    "time": TIMES,
    **{f"{slot} {name}": values for slot in SLOTS for name, values in _SLOT_FACTS.items()},
}
_NUM_VALUES = [len(values) for values in FACTS.values()]
_UNKNOWN = -100


def facts_of(scene: Scene) -> dict[str, str]:
    """What is true of a scene, by the names in `FACTS`; facts without a meaning are left out."""
    background = scene.background
    facts = {"place": background.place, "weather": background.weather, "time": background.time}
    facts |= {f"{slot} what": "nothing" for slot in SLOTS}
    for thing in scene.things:
        facts[f"{thing.slot} what"] = thing.kind
        facts[f"{thing.slot} size"] = thing.size
        if thing.colour:
            facts[f"{thing.slot} colour"] = thing.colour
    if scene.hero is not None:
        slot = scene.hero_slot
        facts |= {f"{slot} what": "hero", f"{slot} colour": scene.hero.colour}
        facts |= {f"{slot} texture": scene.hero.texture, f"{slot} ears": scene.hero.ears}
    return facts


def values_by_place(scene: Scene) -> list[list[str]]:
    """What is true of each slot, the slot's name first, and last of the background, as words."""
    facts = facts_of(scene)
    slots = [
        [slot, *(facts[f"{slot} {name}"] for name in _SLOT_FACTS if f"{slot} {name}" in facts)]
        for slot in SLOTS
    ]
    return [*slots, [facts[name] for name in ("place", "weather", "time")]]


def tokens_by_place(number: int) -> list[range]:
    """Which of `number` tokens stand for each slot, and last for the background, with the rest."""
    size = number // (len(SLOTS) + 1)
    slots = [range(index * size, (index + 1) * size) for index in range(len(SLOTS))]
    return [*slots, range(len(SLOTS) * size, number)]


def place_of(fact: str) -> int:
    """Of which place a fact is, by its index in `values_by_place` and `tokens_by_place`."""
    slot, _, _ = fact.rpartition(" ")
    return list(SLOTS).index(slot) if slot else len(SLOTS)


def fact_targets(scenes: Sequence[Scene]) -> Tensor:
    """The index of the true value of every fact, [N, F]; -100 where it has no meaning."""
    return torch.tensor([_row(facts_of(scene)) for scene in scenes])


def _row(truth: Mapping[str, str]) -> list[int]:
    return [
        values.index(truth[name]) if name in truth else _UNKNOWN for name, values in FACTS.items()
    ]


def fact_logits(tokens_NTD: Tensor, values: Mapping[str, Tensor], scale: float) -> list[Tensor]:
    """How much of each value's vector is in the mean of the tokens of its place, by fact.

    `values` has the vectors [values, D] of every fact, by the names in `FACTS`.
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
    """Mean cross-entropy of the facts that have a meaning, from each fact's logits [N, values]."""
    losses = [
        F.cross_entropy(logits_NW, target_N, reduction="sum", ignore_index=_UNKNOWN)
        for logits_NW, target_N in zip(logits, targets_NF.unbind(1), strict=True)
    ]
    return torch.stack(losses).sum() / (targets_NF != _UNKNOWN).sum()


class FactReadout(nn.Module):
    """Every fact from normalised, flattened features by one linear map."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, sum(_NUM_VALUES))

    def forward(self, features_NLD: Tensor, targets_NF: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the facts that have a meaning, and how many are read right."""
        normalised_NLD = F.layer_norm(features_NLD, features_NLD.shape[-1:])
        parts = self.linear(normalised_NLD.flatten(1)).split(_NUM_VALUES, 1)
        guesses_NF = torch.stack([part_NV.argmax(1) for part_NV in parts], 1)
        num_right = (guesses_NF == targets_NF).sum()
        return fact_loss(parts, targets_NF), num_right / (targets_NF != _UNKNOWN).sum()
