"""Warm start of the ViT and its adapter: name what stands where, and keep colours in the maps.

A model of the published size starts from CLIP; a small one has no such teacher, but the world
knows its ground truth. The readouts are thrown away afterwards. The facts are read from the
patches and the coarse maps, not from the visual tokens: through the perceiver, which begins by
averaging everything, the encoder learned next to nothing in the time it needs to learn it all
from its own features. The perceiver follows in a phase of its own (`condense`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.training.data import pixels_of
from model.training.objectives.facts import FactReadout, fact_targets
from model.training.parameters import ParameterGroup
from model.training.world.examples import any_scene
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

_COARSEST_READ = 2  # How many of the four maps the facts are read from, the coarsest.


class VisionObjective:
    """Reads every fact from patches and coarse maps, and colours from all maps."""

    def __init__(
        self,
        config: MMInterleavedConfig,
        batch_size: int = 16,
        object_set: str = "drawn",
        seed: int = 0,
        tokenizer: VisualTokenizer | None = None,
    ) -> None:
        vision = config.vision
        self.tokenizer = tokenizer or VisualTokenizer(config)
        sides = (vision.grid_size, *vision.map_sizes[-_COARSEST_READ:])
        self.facts = nn.ModuleList(FactReadout(side**2 * vision.hidden_size) for side in sides)
        self.colours = nn.ModuleList(nn.Linear(vision.hidden_size, 3) for _ in vision.map_sizes)
        self.module = nn.ModuleList([self.tokenizer, self.facts, self.colours])
        self.batch_size, self.object_set, self.seed = batch_size, object_set, seed

    def groups(self) -> list[ParameterGroup]:
        """The ViT, its adapter and the readouts."""
        parts = nn.ModuleList([self.tokenizer.encoder, self.facts, self.colours])
        return [ParameterGroup(tuple(p for p in parts.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts, distance of the colours."""
        rng = random.Random(f"vision/{self.seed}/{step}")
        scenes = [any_scene(rng, self.object_set) for _ in range(self.batch_size)]
        device = self.tokenizer.pos_embed.device
        pixels_N3SS = torch.stack([pixels_of(scene.render()) for scene in scenes]).to(device)
        visual = self.tokenizer(pixels_N3SS)
        facts, accuracy = self._facts(visual, fact_targets(scenes).to(device))
        colour = self._colour_distance(visual.maps, pixels_N3SS)
        return {"loss": facts + colour, "facts": facts, "colour": colour, "accuracy": accuracy}

    def _facts(self, visual: VisualFeatures, targets_NF: Tensor) -> tuple[Tensor, Tensor]:
        """The sum over the readouts of the loss, and their mean accuracy."""
        coarse = [map_.flatten(2).transpose(1, 2) for map_ in visual.maps[-_COARSEST_READ:]]
        results = [
            readout(features_NLD, targets_NF)
            for readout, features_NLD in zip(
                self.facts, (visual.image_embeds_NVC, *coarse), strict=True
            )
        ]
        losses, accuracies = zip(*results, strict=True)
        return torch.stack(losses).sum(), torch.stack(accuracies).mean()

    def _colour_distance(self, maps: tuple[Tensor, ...], pixels_N3SS: Tensor) -> Tensor:
        total = pixels_N3SS.new_zeros(())
        for readout, map_NDss in zip(self.colours, maps, strict=True):
            wanted_N3ss = F.interpolate(pixels_N3SS, map_NDss.shape[-2:], mode="area")
            read_Nss3 = readout(F.layer_norm(map_NDss.permute(0, 2, 3, 1), map_NDss.shape[1:2]))
            total = total + (read_Nss3.permute(0, 3, 1, 2) - wanted_N3ss).abs().mean()
        return total
