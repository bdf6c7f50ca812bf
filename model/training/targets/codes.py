"""Codes of image tokens: what they learn to hold, and what a decoder learns to draw from.

A code is a random vector for each value of a fact. Every image token stands for a place of the
world's facts; its target is the sum of the codes of that place, scaled to a variance of one. It is
what a token holds once the perceiver has read the context.

Where what an image shows follows from what is told of it, a world sketches it, and the perceiver's
further layers turn facts into the sketch: every image token comes to stand for a cell of it, and
holds the cell's pixels, its kind, and the facts of the background. So neither the language model
nor the U-Net has to learn where things stand and what they look like.

Legend: N images, T image tokens, D width, G cells along a side, C side of a cell in pixels, P the
values of its pixels, K kinds.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import MMInterleavedConfig
from model.training.targets.facts import fact_logits, fact_loss, fact_targets, tokens_by_place
from model.training.world.drawable import Drawable
from model.training.world.facts import Facts, Sketch

_SCALE = 32.0  # Of a fact's own code among three others: a logit of 16, of all others about 0.
_CELL = 4  # Side of a sketch's cell in pixels.
_LOOK = 2.0  # How much a cell's pixels count beside one code.
_MOST_NOISE = 0.4  # Deviation of what is added to codes, whose own is 1.
_KIND = "what"
_THING_WEIGHT = 3.0  # Of cells with a thing, relative to the others.


def codes_of(images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig) -> Tensor:
    """The facts that image tokens shall hold, [N, T, D], with a variance of one."""
    perceiver = config.image_decoder.perceiver
    number, width = perceiver.num_queries, perceiver.hidden_size
    codes_NTD = torch.stack([_by_place(image, facts, number, width) for image in images])
    if facts.sketch_of is None:
        return codes_NTD
    # What further layers make of a token depends on its cell.
    cells_TD = _codes([f"cell {index}" for index in range(number)], width)
    return F.layer_norm(codes_NTD + cells_TD, (width,))


def with_noise(codes_NTD: Tensor) -> Tensor:
    """Codes with up to `_MOST_NOISE` of noise: image tokens will not be exact."""
    share_N11 = torch.rand(len(codes_NTD), 1, 1, device=codes_NTD.device) * _MOST_NOISE
    return codes_NTD + share_N11 * torch.randn_like(codes_NTD)


def code_loss(
    tokens_NTD: Tensor, images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig
) -> Tensor:
    """The mean squared distance from the codes plus the cross-entropy of the facts, a scalar.

    The facts are read by their codes from the mean token of each place. The distance alone teaches
    kinds of things late: one of many kinds hardly changes it until it is nearly certain.
    """
    tokens_NTD = tokens_NTD.float()
    device, width = tokens_NTD.device, tokens_NTD.shape[-1]
    distance = F.mse_loss(tokens_NTD, codes_of(images, facts, config).to(device))
    codes = {
        name: _codes([_key(name, value) for value in values], width)
        for name, values in facts.values.items()
    }
    scale = _SCALE if facts.sketch_of is None else _SCALE * 2**0.5  # A cell has half the variance.
    logits = fact_logits(tokens_NTD, codes, scale / width, facts)
    return distance + fact_loss(logits, fact_targets(images, facts).to(device))


def _by_place(image: Drawable, facts: Facts, number: int, width: int) -> Tensor:
    """The tokens of each place are the sum of its codes, [T, D]."""
    keys = [[f"place {place}"] for place in range(facts.num_places)]
    for name, value in facts.of(image).items():
        keys[facts.places[name]].append(_key(name, value))
    parts = zip(keys, tokens_by_place(number, facts.num_places), strict=True)
    return torch.cat([_sum_of(each, width).expand(len(tokens), -1) for each, tokens in parts])


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
    codes_KD = _codes([_key(_KIND, kind) for kind in _kinds(facts)], width).to(device)
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
    return facts.values[f"0 {_KIND}"]


def _by_cell(image: Drawable, sketch: Sketch, facts: Facts, width: int) -> Tensor:
    """Every token holds its cell's pixels and kind, and the facts of the background, [T, D]."""
    background = facts.num_places - 1
    keys = [_key(n, v) for n, v in facts.of(image).items() if facts.places[n] == background]
    number = len(sketch.kinds)
    grid = math.isqrt(number)
    cells_GcGcP = torch.from_numpy(sketch.pixels).view(grid, _CELL, grid, _CELL, -1)
    pixels_TP = cells_GcGcP.transpose(1, 2).reshape(number, -1) * 2 - 1
    looks_TD = pixels_TP @ _directions(pixels_TP.shape[1], width)
    kinds_TD = _codes([_key(_KIND, kind) for kind in sketch.kinds], width)
    # A perceiver ends with a norm, so its tokens are equally long.
    return F.layer_norm(kinds_TD + _sum_of(keys, width) + _LOOK * looks_TD, (width,))


@cache
def _directions(number: int, width: int) -> Tensor:
    """That many random orthogonal directions, [P, D], of a length that keeps the variance."""
    generator = torch.Generator().manual_seed(number)
    random_DP = torch.randn(width, number, generator=generator)
    return torch.linalg.qr(random_DP).Q.T * (width / number) ** 0.5


def _key(name: str, value: str) -> str:
    """What a code stands for: the last word of the fact's name, the same at every place, and it."""
    return f"{name.rpartition(' ')[2]} {value}"


def _sum_of(keys: Sequence[str], width: int) -> Tensor:
    """The sum of some codes, [D], with a variance of one."""
    return _codes(keys, width).sum(0) / len(keys) ** 0.5


def _codes(keys: Sequence[str], width: int) -> Tensor:
    return torch.stack([_code(key, width) for key in keys])


@lru_cache(maxsize=4096)
def _code(key: str, width: int) -> Tensor:
    """The random vector of a key, a function of its letters."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.randn(width, generator=generator)
