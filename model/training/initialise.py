"""Starting values for training a model of its own from nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

from model.config.schema import LanguageModelConfig
from model.mm_interleaved import MMInterleaved
from model.positions import frequencies
from model.text_decoder.text_decoder import CausalSelfAttention
from model.visual_tokenizer.perceiver import PerceiverResampler, QFormerLayer

_OUTPUTS = ("o_proj", "down_proj")
_OPEN_GATE = 0.5
_WIDTH = 0.02
_SHARPNESS = 2.5
_SLOW = 0.01  # Radians a token: a turn that leaves neighbouring sentences comparable.
_LIKENESS = 12.0  # The logit of a token with itself in a head that matches.


@torch.no_grad()
def initialise(model: MMInterleaved) -> None:
    """Give a fresh language model small weights, and open the gates of its synchronizers.

    The published training starts from a pre-trained language model, which a closed gate protects;
    here there is nothing to protect, and an open gate learns from the first step on.

    Words and visual tokens are as large as what the layers add to them. Of small ones nothing is
    left behind the first layers, and a word can hardly be copied or found again. One head of each
    layer but the first starts out finding it.
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
    """Let the first head look for tokens that resemble its own, and repeat what is there.

    Queries and keys have the same weights, outputs those of values transposed, in the manner of
    mimetic initialisation (Trockman and Kolter, 2023). A small model needs long to find that a
    question and what it asks about share a word. Queries and keys use only channels that rotate
    slowly, where a token far away is still like itself.
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
    """What is new around a language model whose embeddings have a deviation of `width`.

    The gates of a pre-trained one stay closed at first.

    The image tokens start with attention that tells the words of a context apart. Where all of them
    read the same mean of the context, they say the same, and hardly ever learn to say more.
    """
    nn.init.normal_(model.soi_token, std=width)
    spread_queries(model.image_decoder.perceiver_resampler, _SHARPNESS)


@torch.no_grad()
def spread_queries(perceiver: PerceiverResampler, sharpness: float) -> None:
    """Queries that differ, and attention that tells apart what they read from the start.

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
