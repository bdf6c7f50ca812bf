"""Codes of sketches: what image tokens become once the perceiver has composed an image.

Where what an image shows follows from what is told of it, a world sketches it. Every image token
then stands for a cell of the sketch. It holds the look and the kind of the thing there, and of the
background the facts and coarse colours. So neither the language model nor the U-Net has to learn
where things stand. Light and weather are facts, which the U-Net paints.

On the way there the tokens of each place hold the parts of its thing, one each: first what they
look like, then also where they lie. Every cell then fetches the part that lies there. So what
things look like is learned once, and not anew for every place where they can stand.

Legend: N images, T image tokens, M of all images' tokens that hold a part, D width, G cells along a
side, C side of a cell in pixels, P the numbers that tell its look, K kinds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.training.targets.image_tokens.codes import cell_vectors, key_of, sum_of, vectors_of
from model.training.targets.image_tokens.frequencies import (
    NUM_LOOKS,
    coarse_colours_of,
    looks_of,
)
from model.training.world.drawable import Drawable
from model.training.world.facts import WHAT, Facts, Sketch
from model.visual_tokenizer.codebook import sections
from model.visual_tokenizer.perceiver import QFormerLayer

_CELL = 16  # Side of a cell in pixels.
_LOOK = 3.0  # How much a cell's look counts beside the vector of its kind.
_SCALE = 32.0  # Of the vector of a cell's kind: a logit of about 13, of all others about 0.
_THING_WEIGHT = 3.0  # Of cells with a thing, relative to the others.


@dataclass(frozen=True)
class SketchCodes:
    """What image tokens shall be.

    Attributes:
        codes_NTD: with a variance of one.
        kinds_NT: the kind of each cell, an index; 0 for none.
    """

    codes_NTD: Tensor
    kinds_NT: Tensor


def sketch_codes_of(
    images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig
) -> SketchCodes:
    """The codes of the images' sketches, one cell for every image token.

    Raises:
        ValueError: the world sketches no images, or the tokens form no grid.
    """
    perceiver = config.image_decoder.perceiver
    grid = math.isqrt(perceiver.num_queries)
    if facts.sketcher is None or grid**2 != perceiver.num_queries:
        raise ValueError(f"no sketches for {perceiver.num_queries} image tokens")
    sketches = [facts.sketcher.sketch(image, grid, _CELL) for image in images]
    pairs = zip(images, sketches, strict=True)
    rows = [_by_cell(image, sketch, facts, perceiver.hidden_size) for image, sketch in pairs]
    kinds = _kinds(facts)
    indices = [[kinds.index(kind) for kind in sketch.kinds] for sketch in sketches]
    return SketchCodes(torch.stack(rows), torch.tensor(indices))


@dataclass(frozen=True)
class PartTargets:
    """What tokens shall hold on the way.

    Attributes:
        looks_NTP: what each token's part looks like.
        lies_NTT: at which tokens' cells it lies; rows with a part sum to one, others to zero.
    """

    looks_NTP: Tensor
    lies_NTT: Tensor

    @property
    def has_NT(self) -> Tensor:
        """Which tokens hold a part."""
        return self.lies_NTT.sum(-1) > 0

    @property
    def looks_MP(self) -> Tensor:
        """What the parts look like, without tokens that hold none."""
        return self.looks_NTP[self.has_NT]

    def first(self, number: int) -> PartTargets:
        """Those of the first images."""
        return PartTargets(self.looks_NTP[:number], self.lies_NTT[:number])


def part_targets_of(
    images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig
) -> PartTargets:
    """The parts of the images' sketches."""
    assert facts.sketcher is not None
    number = config.image_decoder.perceiver.num_queries
    grid, places = math.isqrt(number), sections(number, facts.num_places)
    looks_NTP = torch.zeros(len(images), number, NUM_LOOKS)
    lies_NTT = torch.zeros(len(images), number, number)
    for row, image in enumerate(images):
        by_place = facts.sketcher.parts(image, grid, _CELL)
        held = {
            token: part
            for tokens, parts in zip(places, by_place, strict=False)
            for token, part in zip(tokens, parts, strict=False)
            if part is not None
        }
        if held:
            pixels_KCC4 = torch.from_numpy(np.stack([part.pixels for part in held.values()]))
            looks_NTP[row, list(held)] = looks_of(pixels_KCC4)
        for token, part in held.items():
            lies_NTT[row, token, list(part.cells)] = 1 / len(part.cells)
    return PartTargets(looks_NTP, lies_NTT)


def look_loss(tokens_MD: Tensor, looks_MP: Tensor) -> Tensor:
    """The share of the variance of parts' looks that their tokens leave open."""
    directions_PD = _directions(tokens_MD.shape[1])[:NUM_LOOKS].to(tokens_MD.device)
    looked_MP = tokens_MD.float() @ F.normalize(directions_PD).T
    return F.mse_loss(looked_MP, looks_MP) / looks_MP.var()


def position_loss(tokens_NTD: Tensor, targets: PartTargets) -> Tensor:
    """The cross-entropy of the cells where parts lie, and of tokens' own cells.

    By both a cell finds the part that lies there (`fetch_loss`).
    """
    lies_NTT, has_NT = targets.lies_NTT, targets.has_NT
    width, scale = tokens_NTD.shape[-1], _SCALE / tokens_NTD.shape[-1]
    cells_TD = cell_vectors(lies_NTT.shape[1], width).to(tokens_NTD.device)
    lies_MT = tokens_NTD[has_NT].float() @ (cells_TD @ turn(width)).T * scale
    own_NTT = tokens_NTD.float() @ cells_TD.T * scale
    number = torch.arange(len(cells_TD), device=own_NTT.device).repeat(len(own_NTT))
    lies = F.cross_entropy(lies_MT, lies_NTT[has_NT])
    return lies + F.cross_entropy(own_NTT.flatten(0, 1), number)


def fetch_loss(
    layer: QFormerLayer, tokens_NTD: Tensor, targets: PartTargets
) -> tuple[Tensor, Tensor]:
    """How far a layer's attention is from the parts that lie at each token's cell.

    The last head is free to read something else.

    Returns:
        minus the logarithm of the attention on these parts, and the attention, both averaged over
        the cells where parts lie.
    """
    lies_NTT = targets.lies_NTT > 0
    right_NTT = lies_NTT.transpose(1, 2)
    covered_NT = right_NTT.any(-1)
    logits_NHTT = layer.attention.attention.logits(tokens_NTD, tokens_NTD)[:, :-1].float()
    logs_NHTT = logits_NHTT.log_softmax(-1)
    right_N1TT = right_NTT[:, None]
    mass_NHT = logs_NHTT.masked_fill(~right_N1TT, -torch.inf).logsumexp(-1)
    mass_NHT = torch.where(covered_NT[:, None], mass_NHT, 0.0)
    number = covered_NT.sum() * logits_NHTT.shape[1]
    right = (mass_NHT.exp() * covered_NT[:, None]).sum() / number
    return -mass_NHT.sum() / number, right


@cache
def turn(width: int) -> Tensor:
    """A random rotation, [D, D], between the vectors of a token's own cell and of a part's cell."""
    generator = torch.Generator().manual_seed(width)
    return torch.linalg.qr(torch.randn(width, width, generator=generator)).Q


def sketch_loss(tokens_NTD: Tensor, targets: SketchCodes, facts: Facts) -> tuple[Tensor, Tensor]:
    """The loss of image tokens, and the share of cells with a thing whose kind is right.

    Every cell counts by its squared distance plus the cross-entropy of its kind, read by the code.
    Cells with a thing count more.
    """
    tokens_NTD = tokens_NTD.float()
    device, width = tokens_NTD.device, tokens_NTD.shape[-1]
    codes_KD = vectors_of([key_of(WHAT, kind) for kind in _kinds(facts)], width).to(device)
    logits_NKT = (tokens_NTD @ codes_KD.T * (_SCALE / width)).transpose(1, 2)
    losses_NT = F.cross_entropy(logits_NKT, targets.kinds_NT, reduction="none")
    losses_NT = losses_NT + (tokens_NTD - targets.codes_NTD).square().mean(-1)
    is_thing_NT = targets.kinds_NT > 0
    weights_NT = torch.where(is_thing_NT, _THING_WEIGHT, 1.0)
    right_NT = (logits_NKT.argmax(1) == targets.kinds_NT) & is_thing_NT
    loss = (losses_NT * weights_NT).sum() / weights_NT.sum()
    return loss, right_NT.sum() / is_thing_NT.sum().clamp(min=1)


def _kinds(facts: Facts) -> tuple[str, ...]:
    """What a cell can show; the first is nothing."""
    return facts.values[f"0 {WHAT}"]


def _by_cell(image: Drawable, sketch: Sketch, facts: Facts, width: int) -> Tensor:
    """What the token of each cell holds, [T, D].

    The look and the kind of the thing there, coarsely the colours behind it, and the facts of the
    background.
    """
    background = facts.num_places - 1
    keys = [key_of(n, v) for n, v in facts.of(image).items() if facts.places[n] == background]
    number = len(sketch.kinds)
    grid = math.isqrt(number)
    looks_TD = looks_of(_cells(sketch.things, grid)) @ _directions(width)[:NUM_LOOKS]
    colours_TP = coarse_colours_of(_cells(sketch.background, grid) * 2 - 1)
    looks_TD = looks_TD + colours_TP @ _directions(width)[NUM_LOOKS:][: colours_TP.shape[1]]
    kinds_TD = vectors_of([key_of(WHAT, kind) for kind in sketch.kinds], width)
    # A perceiver ends with a norm, so its tokens are equally long.
    return F.layer_norm(kinds_TD + sum_of(keys, width) + _LOOK * looks_TD, (width,))


def _cells(pixels_SSC: NDArray[np.float32], grid: int) -> Tensor:
    """The pixels of each cell, [T, C, C, 3] or [T, C, C, 4]."""
    channels = pixels_SSC.shape[-1]
    cells_GCGC = torch.from_numpy(pixels_SSC).view(grid, _CELL, grid, _CELL, channels)
    return cells_GCGC.transpose(1, 2).flatten(0, 1)


@cache
def _directions(width: int) -> Tensor:
    """Random orthogonal directions, [D, D]; the first `NUM_LOOKS` are those of looks.

    They are of a length with which that many random numbers have a variance of one.
    """
    generator = torch.Generator().manual_seed(NUM_LOOKS)
    random_DP = torch.randn(width, NUM_LOOKS, generator=generator)
    return torch.linalg.qr(random_DP, mode="complete").Q.T * (width / NUM_LOOKS) ** 0.5
