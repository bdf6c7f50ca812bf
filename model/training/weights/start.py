"""A fresh model: starting values, a tokenizer."""

from __future__ import annotations

import math
import random

import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

from model.checkpoint.seeded import tokenizer_from_texts
from model.config.schema import LanguageModelConfig, MMInterleavedConfig
from model.mm_interleaved import MMInterleaved
from model.positions import frequencies
from model.processor import IMAGE_TOKEN, SOI_TOKEN
from model.text_decoder.text_decoder import CausalSelfAttention
from model.training.targets.image_tokens.sketches import turn
from model.training.world.drawn.painting.objects import OBJECT_SETS
from model.training.world.drawn.tasks import TASKS
from model.visual_tokenizer.perceiver import PerceiverResampler, QFormerLayer

_OUTPUTS = ("o_proj", "down_proj")
_OPEN_GATE = 0.5
_WIDTH = 0.02
_SHARPNESS = 2.5
_SLOW = 0.01  # Radians a token: a turn that leaves neighbouring sentences comparable.
_FETCHING_LAYER = 2  # Among the composing layers.
_FETCHING = 2.1  # A logit of about 8 for a vector that is a quarter of what a token holds.
_LIKENESS = 12.0  # The logit of a token with itself in a head that matches.


@torch.no_grad()
def initialise(model: MMInterleaved) -> None:
    """Give a fresh language model small weights, and open the gates of its synchronizers.

    The published training starts from a pre-trained language model, which a closed gate protects.
    Here there is nothing to protect, and an open gate learns from the first step on.

    Embeddings and visual tokens are as large as the outputs of the layers. Small ones vanish after
    the first layers, and a word can hardly be copied or found again. One head of each layer but the
    first starts as a matching head (`match_tokens`).
    """
    language = model.mm_decoder
    depth = len(language.layers)
    for name, module in language.named_modules():
        if isinstance(module, nn.Linear) and "llama_cross_attn" not in name:
            scale = _WIDTH * 2 / math.sqrt(2 * depth) if name.endswith(_OUTPUTS) else 2 * _WIDTH
            nn.init.normal_(module.weight, std=scale)
        elif name.endswith("llama_cross_attn"):
            module.gate.fill_(_OPEN_GATE)
    nn.init.normal_(language.embed_tokens.weight)
    projection = model.visual_tokenizer.proj
    nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    for module in language.modules():
        if isinstance(module, CausalSelfAttention) and module.index > 0:
            match_tokens(module, model.config.llm)
    initialise_around(model, 1.0)


@torch.no_grad()
def match_tokens(attention: CausalSelfAttention, config: LanguageModelConfig) -> None:
    """Make the first head attend to tokens that resemble its own, and copy them.

    Queries and keys share weights, and the output is the transpose of the values, as in mimetic
    initialisation (Trockman and Kolter, 2023). Without it a small model needs many steps to find
    that a question and its subject share a word. Queries and keys use only channels that rotate
    slowly, in which a distant token still matches itself.
    """
    width, inner = config.head_width, config.hidden_size
    slow = (frequencies(config) < _SLOW).nonzero().flatten()
    channels = torch.cat((slow, slow + width // 2))
    directions = nn.init.orthogonal_(torch.empty(len(channels), inner))
    # Of a token with a mean square of one these directions hold `len(channels)`.
    scale = (_LIKENESS * math.sqrt(width) / len(channels)) ** 0.5
    for linear in (attention.q_proj, attention.k_proj):
        linear.weight[:width] = 0.0
        linear.weight[channels] = scale * directions
    values = nn.init.orthogonal_(torch.empty(width, inner))
    attention.v_proj.weight[:width] = values
    attention.o_proj.weight[:, :width] = values.T


@torch.no_grad()
def initialise_around(model: MMInterleaved, width: float = _WIDTH) -> None:
    """Initialise the parts around a language model whose embeddings have a deviation of `width`.

    The gates of a pre-trained language model stay closed at first. The image tokens start with
    attention that tells the words of a context apart: where all of them read the same mean of the
    context, they hardly ever learn to differ.
    """
    nn.init.normal_(model.soi_token, std=width)
    perceiver = model.image_decoder.perceiver_resampler
    spread_queries(perceiver, _SHARPNESS)
    if len(perceiver.composing_layers) > _FETCHING_LAYER:
        fetch_parts(perceiver)


@torch.no_grad()
def fetch_parts(perceiver: PerceiverResampler) -> None:
    """Make the third composing layer attend to the part that lies at a token's own cell.

    Queries read the vector of the own cell, keys that of a part's cell, which is that vector turned
    (`targets.image_tokens.sketches`).
    """
    layer = perceiver.composing_layers[_FETCHING_LAYER]
    assert isinstance(layer, QFormerLayer)
    attention = layer.attention.attention
    width = attention.query.in_features
    directions = nn.init.orthogonal_(torch.empty(width, width))
    attention.query.weight.copy_(_FETCHING * directions)
    attention.key.weight.copy_(_FETCHING * directions @ turn(width))


@torch.no_grad()
def spread_queries(perceiver: PerceiverResampler, sharpness: float) -> None:
    """Initialise queries that differ, and attention that tells its inputs apart.

    Queries and keys grow by `sharpness`: their norms where there are some, else their weights.
    """
    nn.init.normal_(perceiver.queries)
    for layer in perceiver.modules():
        if isinstance(layer, QFormerLayer) and layer.crossattention is not None:
            attention = layer.crossattention.attention
            for linear, norm in (
                (attention.query, attention.q_norm),
                (attention.key, attention.k_norm),
            ):
                if isinstance(norm, nn.LayerNorm):
                    nn.init.constant_(norm.weight, sharpness)
                else:
                    linear.weight.mul_(sharpness)


_EXAMPLES_PER_TASK = 1500
_SEED = 11


def world_tokenizer(config: MMInterleavedConfig) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the configured ids, learned from the text of the world."""
    from pydoc_data.topics import topics

    special = config.special_tokens
    names = {special.pad_token_id: "<pad>", special.bos_token_id: "<s>"}
    names |= {special.eos_token_id: "</s>", special.soi_token_id: SOI_TOKEN}
    names[special.image_token_id] = IMAGE_TOKEN
    return tokenizer_from_texts([*world_texts(), *topics.values()], names, config.txt_vocab_size)


def world_texts() -> list[str]:
    """The texts of some examples of each task, over all sets of objects."""
    rng = random.Random(_SEED)
    texts: list[str] = []
    for draw in TASKS.values():
        for _ in range(_EXAMPLES_PER_TASK):
            example = draw(rng, "+".join(OBJECT_SETS))
            texts += [p for p in (*example.prompt, *example.answer) if isinstance(p, str)]
    return texts
