"""Warm start of the visual tokenizer: name what stands where, and keep colours in the maps.

A model of the published size starts from CLIP; a small one has no such teacher, but the world
knows its ground truth. The readouts are thrown away afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config import MMInterleavedConfig
from model.training.data import pixels_of
from model.training.trainer import ParameterGroup
from model.training.world.background import PLACES, TIMES, WEATHERS
from model.training.world.character import EARS, TEXTURES, Character
from model.training.world.objects import ALL_KINDS
from model.training.world.palette import CHARACTER_COLOURS
from model.training.world.scene import SIZES, SLOTS, Scene
from model.visual_tokenizer import VisualTokenizer

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


def any_scene(rng: random.Random, object_set: str) -> Scene:
    """A scene with things, a hero, or both."""
    scene = Scene.draw_lots(rng, object_set)
    if rng.random() < 0.7:
        slot = rng.choice(tuple(SLOTS))
        things = tuple(thing for thing in scene.things if thing.slot != slot)
        scene = replace(scene, things=things, hero=Character.draw_lots(rng), hero_slot=slot)
    return scene


class VisionObjective:
    """Reads every fact from the visual tokens, and colours from the maps."""

    def __init__(
        self,
        config: MMInterleavedConfig,
        batch_size: int = 16,
        object_set: str = "drawn",
        seed: int = 0,
        tokenizer: VisualTokenizer | None = None,
    ) -> None:
        self.tokenizer = tokenizer or VisualTokenizer(config)
        width = config.llm.hidden_size * config.num_img_token
        self.facts = nn.Linear(width, sum(len(values) for values in FACTS.values()))
        self.colours = nn.ModuleList(nn.Linear(config.vision.hidden_size, 3) for _ in range(4))
        self.module = nn.ModuleList([self.tokenizer, self.facts, self.colours])
        self.batch_size, self.object_set, self.seed = batch_size, object_set, seed

    def groups(self) -> list[ParameterGroup]:
        """Everything, readouts included."""
        return [ParameterGroup(tuple(p for p in self.module.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts, distance of the colours."""
        rng = random.Random(f"vision/{self.seed}/{step}")
        scenes = [any_scene(rng, self.object_set) for _ in range(self.batch_size)]
        pixels_N3SS = torch.stack([pixels_of(scene.render()) for scene in scenes])
        visual = self.tokenizer(pixels_N3SS)
        logits_NF = self.facts(F.layer_norm(visual.tokens_NTD.flatten(1), [self.facts.in_features]))
        loss, right, known = torch.zeros(()), 0.0, 0.0
        truths = [facts_of(scene) for scene in scenes]
        for part_NV, (name, values) in zip(
            logits_NF.split([len(v) for v in FACTS.values()], 1), FACTS.items(), strict=True
        ):
            target_N = torch.tensor(
                [values.index(truth[name]) if name in truth else _UNKNOWN for truth in truths]
            )
            is_known_N = target_N != _UNKNOWN
            loss = loss + F.cross_entropy(part_NV, target_N, reduction="sum", ignore_index=_UNKNOWN)
            right += float(((part_NV.argmax(1) == target_N) & is_known_N).sum())
            known += float(is_known_N.sum())
        loss = loss / known
        colour = self._colour_distance(visual.maps, pixels_N3SS)
        accuracy = torch.tensor(right / known)
        return {"loss": loss + colour, "facts": loss, "colour": colour, "accuracy": accuracy}

    def _colour_distance(self, maps: tuple[Tensor, ...], pixels_N3SS: Tensor) -> Tensor:
        total = torch.zeros(())
        for readout, map_NDss in zip(self.colours, maps, strict=True):
            wanted_N3ss = F.interpolate(pixels_N3SS, map_NDss.shape[-2:], mode="area")
            read_Nss3 = readout(F.layer_norm(map_NDss.permute(0, 2, 3, 1), map_NDss.shape[1:2]))
            total = total + (read_Nss3.permute(0, 3, 1, 2) - wanted_N3ss).abs().mean()
        return total
