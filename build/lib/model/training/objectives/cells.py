"""Vision from scratch: every cell of the encoder's patches and maps tells what it shows.

A target in every cell teaches many kinds of things faster than one answer for each image. Readouts
are discarded.

Legend: N images, F facts, W values of a fact, V patches, D width, s side of a map, S side of an
image.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.training.data.batches import pixels_of
from model.training.data.loading import Loader, TensorBatch
from model.training.objectives.losses import colour_distance
from model.training.parameters import ParameterGroup
from model.training.recipe import Phase
from model.training.targets.cells import cells_of
from model.training.targets.facts import fact_loss
from model.training.world.world import SegmentedWorld
from model.visual_tokenizer.visual_tokenizer import VisualTokenizer

_READ_MAPS = (1, 2)  # Those of 1/8 and 1/16 of the image's side.
_NOTHING_WEIGHT = 0.25  # Most cells show nothing.
_BOX_WEIGHT = 4.0


class CellBatches:
    """Scenes with the targets of their cells, on grids of some sides."""

    def __init__(
        self, world: SegmentedWorld, size: int, sides: Sequence[int], batch_size: int, seed: int
    ) -> None:
        self.world, self.size, self.sides = world, size, tuple(dict.fromkeys(sides))
        self.batch_size, self.seed = batch_size, seed

    def __getitem__(self, step: int) -> TensorBatch:
        """Pixels [N, 3, S, S], values of the whole image [N, F], and targets of each side."""
        rng = random.Random(f"cells/{self.seed}/{step}")
        images = [self.world.scene(rng) for _ in range(self.batch_size)]
        whole = [self.world.whole_facts(image) for image in images]
        rows = [
            [values.index(truth[name]) for name, values in self.world.whole_values.items()]
            for truth in whole
        ]
        batch = {
            "pixels": torch.stack([pixels_of(image.render(self.size)) for image in images]),
            "whole": torch.tensor(rows),
        }
        for side in self.sides:
            cells = cells_of(images, self.world, self.size, side)
            batch |= {f"facts {side}": cells.facts_NFss, f"boxes {side}": cells.boxes_N4ss}
        return batch


class CellReadout(nn.Module):
    """Reads facts and box of what each cell shows, by one linear map."""

    def __init__(self, width: int, num_values: Sequence[int]) -> None:
        super().__init__()
        self.num_values = list(num_values)
        self.linear = nn.Linear(width, sum(num_values) + 4)

    def forward(
        self, features_NssD: Tensor, facts_NFss: Tensor, boxes_N4ss: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy of the facts, mean error of the edges, share of things told right."""
        normalised_NssD = F.layer_norm(features_NssD, features_NssD.shape[-1:])
        *parts, edges_Nss4 = self.linear(normalised_NssD).split([*self.num_values, 4], -1)
        what_NssW, *others = (part.float() for part in parts)
        what_Nss, *other_facts = facts_NFss.unbind(1)
        is_thing_Nss = what_Nss > 0
        weights_Nss = torch.where(is_thing_Nss, 1.0, _NOTHING_WEIGHT)
        each_Nss = F.cross_entropy(what_NssW.movedim(-1, 1), what_Nss, reduction="none")
        what = (each_Nss * weights_Nss).sum() / weights_Nss.sum()
        flat = [logits_NssW.flatten(0, 2) for logits_NssW in others]
        targets_MF = torch.stack([facts_Nss.flatten() for facts_Nss in other_facts], 1)
        facts = what + (fact_loss(flat, targets_MF) if bool((targets_MF >= 0).any()) else 0)
        error_M4 = (edges_Nss4.float() - boxes_N4ss.movedim(1, -1))[is_thing_Nss]
        edges = error_M4.abs().sum() / max(error_M4.numel(), 1)
        right_Nss = (what_NssW.argmax(-1) == what_Nss)[is_thing_Nss]
        return facts, edges, right_Nss.float().sum() / max(right_Nss.numel(), 1)


class CellObjective:
    """What each cell of patches and coarse maps shows; place, time and weather; colours.

    Colours are read from all maps, so that the finest holds what the image decoder copies.
    """

    def __init__(
        self,
        tokenizer: VisualTokenizer,
        phase: Phase,
        world: SegmentedWorld,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        vision = tokenizer.config.vision
        self.tokenizer, self.phase = tokenizer, phase
        self.sides = (vision.grid_size, *(vision.map_sizes[level] for level in _READ_MAPS))
        batches = CellBatches(world, vision.image_size, self.sides, phase.batch_size, seed)
        self.loader = Loader(batches, workers)
        num_values = [len(values) for values in world.part_values.values()]
        self.num_whole = [len(values) for values in world.whole_values.values()]
        width = vision.hidden_size
        self.cells = nn.ModuleList(CellReadout(width, num_values) for _ in self.sides)
        self.whole = nn.Linear(width, sum(self.num_whole))
        self.colours = nn.ModuleList(nn.Linear(width, 3) for _ in vision.map_sizes)
        self.module = nn.ModuleList([tokenizer, self.cells, self.whole, self.colours])

    def groups(self) -> list[ParameterGroup]:
        """The ViT, its adapter and the readouts."""
        parts = nn.ModuleList([self.tokenizer.encoder, self.cells, self.whole, self.colours])
        return [ParameterGroup(tuple(p for p in parts.parameters() if p.requires_grad))]

    def losses(self, step: int) -> Mapping[str, Tensor]:
        """Cross-entropy of the facts, errors of edges and colours."""
        device = self.tokenizer.pos_embed.device
        batch = self.loader.load(step, device)
        encoded_NLD, maps = self.tokenizer.encode(batch["pixels"])
        side = self.tokenizer.config.vision.grid_size
        grids = [encoded_NLD[:, 1:].unflatten(1, (side, side))]
        grids += [maps[level].movedim(1, -1) for level in _READ_MAPS]
        read = [
            readout(grid, batch[f"facts {side}"], batch[f"boxes {side}"])
            for readout, grid, side in zip(self.cells, grids, self.sides, strict=True)
        ]
        facts, edges, accuracy = (torch.stack(terms) for terms in zip(*read, strict=True))
        whole = self._whole(encoded_NLD[:, 1:].mean(1), batch["whole"])
        colour = colour_distance(self.colours, maps, batch["pixels"])
        loss = facts.sum() + whole + _BOX_WEIGHT * edges.sum() + colour
        return {
            "loss": loss,
            "facts": facts.mean(),
            "whole": whole,
            "edges": edges.mean(),
            "colour": colour,
            "accuracy": accuracy[0],
        }

    def _whole(self, mean_ND: Tensor, targets_NF: Tensor) -> Tensor:
        logits = self.whole(F.layer_norm(mean_ND, mean_ND.shape[-1:])).split(self.num_whole, 1)
        return fact_loss([part.float() for part in logits], targets_NF)
