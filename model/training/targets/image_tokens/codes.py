"""Codes of image tokens: what they learn to hold, and what a decoder learns to draw from.

A code is a random vector for each value of a fact. Every image token stands for a place of the
world's facts; its target is the sum of the codes of that place, scaled to a variance of one. It is
what a token holds once the perceiver has read the context.

Legend: N images, T image tokens, D width, W codes.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config.schema import CodebookConfig, ConfigError, MMInterleavedConfig
from model.training.targets.facts import fact_logits, fact_loss, fact_targets
from model.training.world.drawable import Drawable
from model.training.world.facts import Facts
from model.visual_tokenizer.codebook import AdditiveCodebook, sections
from model.visual_tokenizer.perceiver import PerceiverResampler

_SCALE = 32.0  # Of a fact's own code among three others: a logit of 16, of all others about 0.
_MOST_NOISE = 0.4  # Deviation of what is added to codes, whose own is 1.


def codes_of(images: Sequence[Drawable], facts: Facts, config: MMInterleavedConfig) -> Tensor:
    """The facts that image tokens shall hold, [N, T, D], with a variance of one."""
    perceiver = config.image_decoder.perceiver
    number, width = perceiver.num_queries, perceiver.hidden_size
    codes_NTD = torch.stack([_by_place(image, facts, number, width) for image in images])
    if facts.sketcher is None:
        return codes_NTD
    # What further layers make of a token depends on its cell (`targets.image_tokens.sketches`).
    cells_TD = cell_vectors(number, width)
    return F.layer_norm(codes_NTD + cells_TD, (width,))


def cell_vectors(number: int, width: int) -> Tensor:
    """What tells each token its cell, [T, D]."""
    return vectors_of([f"cell {index}" for index in range(number)], width)


def codebook_of(facts: Facts) -> CodebookConfig:
    """The codebook that tells these facts: a book for each, the same at every place."""
    books = _books(facts)
    places: list[list[int]] = [[] for _ in range(facts.num_places)]
    for name, place in facts.places.items():
        places[place].append(list(books).index(_book(name)))
    return CodebookConfig(
        sizes=tuple(len(keys) for keys in books.values()),
        sections=tuple(tuple(place) for place in places),
        required=tuple(index for index, book in enumerate(books) if book in facts.always),
        alternatives=tuple(tuple(map(list(books).index, names)) for names in facts.alternatives),
    )


@torch.no_grad()
def fill_codebook(codebook: AdditiveCodebook, facts: Facts) -> None:
    """Make a codebook tell the codes of facts.

    Raises:
        ConfigError: it has other books or sections than these facts, or tokens have no cells.
    """
    if facts.sketcher is None:
        raise ConfigError("a codebook needs a world that sketches its images")
    if codebook.config != codebook_of(facts):
        raise ConfigError(f"the codebook of the image perceiver has to be {codebook_of(facts)}")
    number, width = codebook.token_vectors.shape
    keys = [key for book in _books(facts).values() for key in book]
    places = [_place_key(place) for place in range(facts.num_places)]
    codebook.vectors.copy_(vectors_of(keys, width))
    codebook.section_vectors.copy_(vectors_of(places, width))
    codebook.token_vectors.copy_(cell_vectors(number, width))


def _books(facts: Facts) -> dict[str, list[str]]:
    """What the codes of each fact stand for."""
    return {
        _book(name): [key_of(name, value) for value in values]
        for name, values in facts.values.items()
    }


def as_read(codes_NTD: Tensor, perceiver: PerceiverResampler) -> Tensor:
    """Codes as a perceiver will hold them: clean with a codebook, noisy without one."""
    return with_noise(codes_NTD) if perceiver.codebook is None else codes_NTD


def with_noise(codes_NTD: Tensor) -> Tensor:
    """Codes with up to `_MOST_NOISE` of noise."""
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
        name: vectors_of([key_of(name, value) for value in values], width)
        for name, values in facts.values.items()
    }
    scale = _SCALE if facts.sketcher is None else _SCALE * 2**0.5  # A cell has half the variance.
    logits = fact_logits(tokens_NTD, codes, scale / width, facts)
    return distance + fact_loss(logits, fact_targets(images, facts).to(device))


def _by_place(image: Drawable, facts: Facts, number: int, width: int) -> Tensor:
    """The tokens of each place are the sum of its codes, [T, D]."""
    keys = [[_place_key(place)] for place in range(facts.num_places)]
    for name, value in facts.of(image).items():
        keys[facts.places[name]].append(key_of(name, value))
    parts = zip(keys, sections(number, facts.num_places), strict=True)
    return torch.cat([sum_of(each, width).expand(len(tokens), -1) for each, tokens in parts])


def key_of(name: str, value: str) -> str:
    """What a code stands for: the last word of the fact's name, the same at every place, and it."""
    return f"{_book(name)} {value}"


def _book(name: str) -> str:
    return name.rpartition(" ")[2]


def _place_key(place: int) -> str:
    return f"place {place}"


def sum_of(keys: Sequence[str], width: int) -> Tensor:
    """The sum of the vectors of some keys, [D], with a variance of one."""
    return vectors_of(keys, width).sum(0) / len(keys) ** 0.5


def vectors_of(keys: Sequence[str], width: int) -> Tensor:
    """The random vectors of some keys, [W, D]."""
    return torch.stack([_vector(key, width) for key in keys])


@lru_cache(maxsize=4096)
def _vector(key: str, width: int) -> Tensor:
    """The random vector of a key, a function of its letters."""
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    return torch.randn(width, generator=generator)
