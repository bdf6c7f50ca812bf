"""Starting values for training a model of its own from nothing."""

from __future__ import annotations

import math

import torch
from torch import nn

from model.mm_interleaved import MMInterleaved
from model.perceiver import Layer, PerceiverResampler

_OUTPUTS = ("o_proj", "down_proj")
_OPEN_GATE = 0.5
_WIDTH = 0.02
_SHARPNESS = 2.5


@torch.no_grad()
def initialise(model: MMInterleaved) -> None:
    """Give a fresh language model small weights, and open the gates of its synchronizers.

    The published training starts from a pre-trained language model, which a closed gate protects;
    here there is nothing to protect, and an open gate learns from the first step on.
    """
    language = model.mm_decoder
    depth = len(language.layers)
    for name, module in language.named_modules():
        if isinstance(module, nn.Linear) and "llama_cross_attn" not in name:
            scale = _WIDTH * 2 / math.sqrt(2 * depth) if name.endswith(_OUTPUTS) else 2 * _WIDTH
            nn.init.normal_(module.weight, std=scale)
        elif name.endswith("llama_cross_attn"):
            module.gate.fill_(_OPEN_GATE)
    initialise_around(model)


@torch.no_grad()
def initialise_around(model: MMInterleaved) -> None:
    """What is new around a pre-trained language model, whose gates stay closed at first.

    The image tokens start with attention that tells the words of a context apart. Where all of them
    read the same mean of the context, they say the same, and hardly ever learn to say more.
    """
    nn.init.normal_(model.soi_token, std=_WIDTH)
    spread_queries(model.image_decoder.perceiver_resampler, _SHARPNESS)


@torch.no_grad()
def spread_queries(perceiver: PerceiverResampler, sharpness: float) -> None:
    """Queries that differ, and attention that tells apart what they read from the start.

    Queries and keys grow by `sharpness`: their norms where there are some, else their weights.
    """
    nn.init.normal_(perceiver.queries)
    for layer in perceiver.modules():
        if isinstance(layer, Layer) and layer.crossattention is not None:
            attention = layer.crossattention.attention
            for linear, norm in (
                (attention.query, attention.q_norm),
                (attention.key, attention.k_norm),
            ):
                if isinstance(norm, nn.LayerNorm):
                    nn.init.constant_(norm.weight, sharpness)
                else:
                    linear.weight.mul_(sharpness)
