"""Facts of scenes as targets: linear readouts of features, and codes of image tokens.

A code is a random vector for each value of a fact. Every image token stands for a place of the
world's facts; its target is the sum of the codes of that place, scaled to a variance of one.

Where a value has a picture, the tokens of its place stand for the cells of a grid over it as well,
and hold the pixels of their cells. What a decoder learns of one thing it then knows of others:
to match its noise with the cells and to copy them. From random vectors alone it has to learn the
looks of every thing by itself.

Legend: N images, F facts, T image tokens, L positions, D width, W values of a fact, G side of the
grid, P pixels of a cell with their four channels.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.training.world.drawable import Drawable
from model.training.world.facts import Facts, PictureOf

_UNKNOWN = -100


def tokens_by_place(number: int, num_places: int) -> list[range]:
    """The tokens of each place, of equal number; the last place gets the rest as well."""
    size = number // num_places
    starts = [index * size for index in range(num_places)]
    return [range(start, stop) for start, stop in pairwise([*starts, number])]


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
        for tokens in tokens_by_place(tokens_NTD.shape[1], facts.num_places)
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


_SCALE = 32.0  # Of a fact's own code among three others: a logit of 16, of all others about 0.
_CELL = 4  # Side of a picture's cell in pixels.
_LOOK = 2.0  # How much a cell's pixels count beside one code.
_GAIN = 2.0  # Of pixels, for a variance of about one.


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
    logits = fact_logits(tokens_NTD, codes, _SCALE / width, facts)
    return distance + fact_loss(logits, fact_targets(images, facts).to(device))


def codes_of(images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig) -> Tensor:
    """The target image tokens of some images, [N, T, D], with a variance of one."""
    perceiver = config.image_decoder.perceiver
    by_place = tokens_by_place(perceiver.num_queries, facts.num_places)
    rows, width = [], perceiver.hidden_size
    for image in images:
        keys = [[f"place {place}"] for place in range(facts.num_places)]
        looks: list[Tensor | None] = [None] * facts.num_places
        for name, value in facts.of(image).items():
            keys[facts.places[name]].append(_key(name, value))
            look_TD = _look_of(value, facts.picture_of, len(by_place[facts.places[name]]), width)
            if look_TD is not None:
                looks[facts.places[name]] = look_TD
        parts = zip(keys, looks, by_place, strict=True)
        rows.append(
            torch.cat([_sum_of(each, look, len(tokens), width) for each, look, tokens in parts])
        )
    return torch.stack(rows)


def _sum_of(keys: Sequence[str], look_TD: Tensor | None, number: int, width: int) -> Tensor:
    """The tokens of a place, [T, D], from its codes and the cells of a picture."""
    codes = _codes(keys, width)
    sum_D = codes.sum(0)
    if look_TD is None:
        return (sum_D / len(codes) ** 0.5).expand(number, -1)
    cells_TD = _codes([f"cell {index}" for index in range(number)], width)
    # A perceiver ends with a norm, so its tokens are equally long.
    return F.layer_norm(sum_D + cells_TD + _LOOK * look_TD, (width,))


@lru_cache(maxsize=4096)
def _look_of(value: str, picture_of: PictureOf, number: int, width: int) -> Tensor | None:
    """The pixels of a value's picture in the cells of a grid, [T, D]; None without a picture."""
    grid = math.isqrt(number)
    picture = picture_of(value, grid * _CELL)
    if picture is None:
        return None
    cells_GcGc4 = torch.from_numpy(picture).view(grid, _CELL, grid, _CELL, 4)
    cells_TP = cells_GcGc4.transpose(1, 2).reshape(grid**2, -1)
    look_TD = _GAIN * cells_TP @ _directions(cells_TP.shape[1], width)
    return F.pad(look_TD, (0, 0, 0, number - grid**2))


@cache
def _directions(number: int, width: int) -> Tensor:
    """That many random orthogonal directions, [P, D], of a length that keeps the variance."""
    generator = torch.Generator().manual_seed(number)
    random_DP = torch.randn(width, number, generator=generator)
    return torch.linalg.qr(random_DP).Q.T * (width / number) ** 0.5


def _key(name: str, value: str) -> str:
    """What a code stands for: the last word of the fact's name, the same at every place, and it."""
    return f"{name.rpartition(' ')[2]} {value}"


def _codes(keys: Sequence[str], width: int) -> Tensor:
    return torch.stack([_code(key, width) for key in keys])


@lru_cache(maxsize=4096)
def _code(key: str, width: int) -> Tensor:
    """The random vector of a key, a function of its letters."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.randn(width, generator=generator)
