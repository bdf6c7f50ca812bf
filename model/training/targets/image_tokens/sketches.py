"""Codes of sketches: what image tokens become once the perceiver has composed an image.

Where what an image shows follows from what is told of it, a world sketches it. Every image token
then stands for a cell of the sketch, and holds its pixels, its kind, and the facts of the
background. So neither the language model nor the U-Net has to learn where things stand.

Legend: N images, T image tokens, D width, G cells along a side, C side of a cell in pixels, P the
values of its pixels, K kinds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.training.targets.image_tokens.codes import key_of, sum_of, vectors_of
from model.training.world.drawable import Drawable
from model.training.world.facts import WHAT, Facts, Sketch

_CELL = 4  # Side of a cell in pixels.
_LOOK = 2.0  # How much a cell's pixels count beside the vector of its kind.
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
    if facts.sketch_of is None or grid**2 != perceiver.num_queries:
        raise ValueError(f"no sketches for {perceiver.num_queries} image tokens")
    sketches = [facts.sketch_of(image, grid, _CELL) for image in images]
    pairs = zip(images, sketches, strict=True)
    rows = [_by_cell(image, sketch, facts, perceiver.hidden_size) for image, sketch in pairs]
    kinds = _kinds(facts)
    indices = [[kinds.index(kind) for kind in sketch.kinds] for sketch in sketches]
    return SketchCodes(torch.stack(rows), torch.tensor(indices))


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
    """Every token holds its cell's pixels and kind, and the facts of the background, [T, D]."""
    background = facts.num_places - 1
    keys = [key_of(n, v) for n, v in facts.of(image).items() if facts.places[n] == background]
    number = len(sketch.kinds)
    grid = math.isqrt(number)
    cells_GcGcP = torch.from_numpy(sketch.pixels).view(grid, _CELL, grid, _CELL, -1)
    pixels_TP = cells_GcGcP.transpose(1, 2).reshape(number, -1) * 2 - 1
    looks_TD = pixels_TP @ _directions(pixels_TP.shape[1], width)
    kinds_TD = vectors_of([key_of(WHAT, kind) for kind in sketch.kinds], width)
    # A perceiver ends with a norm, so its tokens are equally long.
    return F.layer_norm(kinds_TD + sum_of(keys, width) + _LOOK * looks_TD, (width,))


@cache
def _directions(number: int, width: int) -> Tensor:
    """That many random orthogonal directions, [P, D], of a length that keeps the variance."""
    generator = torch.Generator().manual_seed(number)
    random_DP = torch.randn(width, number, generator=generator)
    return torch.linalg.qr(random_DP).Q.T * (width / number) ** 0.5
