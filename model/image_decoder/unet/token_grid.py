"""Image tokens as a grid over the image: cross-attention that knows places, and a canvas.

In the published U-Net a query does not know where it is, nor a key of which token it is. With many
steps both are learned; a small decoder learns it late. Where the image tokens form a grid, learned
positions are added to the inputs of the queries and to the keys. They start as the same sinusoids,
so that every place at first reads the tokens around it.

A cell covers several latents. Which part of a token belongs to which of them is hard to say by
attention, so tokens are also laid out over the latents (`TokenCanvas`), and added to the last skip.

Legend: N rows, T tokens, D width, G tokens along a side, S places along a side, P channels of a
cell, F features of a place, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

# Radians a cell: from a tenth of a turn over the whole image to a quarter of a turn a cell.
_SLOWEST, _FASTEST, _NUM_FREQUENCIES = 0.13, 1.6, 8
_NUM_FEATURES = 4 * _NUM_FREQUENCIES
_SHARPNESS = 4.0  # A place then gives the token at its own cell nine tenths of its attention.
_LOUDNESS = 2.0  # Of positions beside the normalised features that they are added to.


class PositionedNorm(nn.LayerNorm):
    """A norm that adds a learned vector of each place."""

    positions: nn.Parameter

    def forward(self, features_NLC: Tensor) -> Tensor:
        """[N, L, C]."""
        return super().forward(features_NLC) + self.positions


class PositionedLinear(nn.Linear):
    """A linear map that adds a learned vector of each token."""

    positions: nn.Parameter

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """[N, T, C]."""
        return super().forward(tokens_NTD) + self.positions


class TokenCanvas(nn.Linear):
    """A linear map of each token to the latents of its cell.

    Attributes:
        scale: latents along a side of a cell.
    """

    def __init__(self, width: int, channels: int, scale: int) -> None:
        super().__init__(width, channels * scale**2)
        self.scale = scale

    def forward(self, tokens_NTD: Tensor) -> Tensor:
        """[N, C, S, S]."""
        grid = math.isqrt(tokens_NTD.shape[1])
        cells_NPGG = super().forward(tokens_NTD).transpose(1, 2).unflatten(2, (grid, grid))
        return F.pixel_shuffle(cells_NPGG, self.scale)


@torch.no_grad()
def know_places(unet: UNet2DConditionModel, num_tokens: int) -> None:
    """Let a fresh U-Net know the places of image tokens.

    Raises:
        ValueError: the number of tokens is not a square, or its root does not divide the side of
            the latents.
    """
    grid, side = math.isqrt(num_tokens), int(unet.config.sample_size)
    if grid**2 != num_tokens or side % grid:
        raise ValueError(f"{num_tokens} image tokens form no grid over {side} x {side} latents")
    for layer, places_along in _layers(unet):
        _position(layer, places(places_along, grid), places(grid, grid))
    width, channels = int(unet.config.cross_attention_dim), unet.config.block_out_channels[0]
    unet.token_canvas = TokenCanvas(width, channels, side // grid)


def places(side: int, grid: int) -> Tensor:
    """Sinusoids of the middles of places in units of a grid's cells, [S * S, F], row by row."""
    middles_S = (torch.arange(side) + 0.5) * (grid / side)
    exponents_F = torch.linspace(math.log(_SLOWEST), math.log(_FASTEST), _NUM_FREQUENCIES)
    frequencies_F = exponents_F.exp()
    angles_SF = middles_S[:, None] * frequencies_F
    axis_SF = torch.cat((angles_SF.sin(), angles_SF.cos()), 1) * math.sqrt(2)
    rows_SSF = axis_SF[:, None].expand(side, side, -1)
    return torch.cat((rows_SSF, rows_SSF.transpose(0, 1)), -1).flatten(0, 1)


def _layers(unet: UNet2DConditionModel) -> Iterator[tuple[BasicTransformerBlock, int]]:
    """Every transformer layer, and the side of the latents that it works on."""
    downs, ups = list(unet.down_blocks), list(unet.up_blocks)
    levels = [*range(len(downs)), len(downs) - 1, *reversed(range(len(ups)))]
    for block, level in zip((*downs, unet.mid_block, *ups), levels, strict=True):
        for transformer in getattr(block, "attentions", None) or ():
            for layer in transformer.transformer_blocks:
                yield layer, math.ceil(unet.config.sample_size / 2**level)


def _position(layer: BasicTransformerBlock, queries_LF: Tensor, keys_TF: Tensor) -> None:
    """Add positions to a layer, and let its queries read them."""
    norm, cross = layer.norm2, layer.attn2
    channels, width = norm.weight.numel(), cross.to_q.weight.shape[0] // cross.heads
    placed = PositionedNorm(channels, norm.eps)
    directions_FC = nn.init.orthogonal_(torch.empty(_NUM_FEATURES, channels))
    scale = _LOUDNESS * math.sqrt(channels / _NUM_FEATURES)
    placed.positions = nn.Parameter(queries_LF @ directions_FC * scale)
    keyed = PositionedLinear(cross.to_k.in_features, cross.to_k.out_features, bias=False)
    keyed.weight = cross.to_k.weight
    # One turn of the features for each head, the same for queries and keys.
    turns = [nn.init.orthogonal_(torch.empty(width, _NUM_FEATURES)) for _ in range(cross.heads)]
    turn_CF = torch.cat(turns) * math.sqrt(_SHARPNESS)
    keyed.positions = nn.Parameter(keys_TF @ turn_CF.T)
    cross.to_q.weight.copy_(cross.to_q.weight / 2 + turn_CF @ directions_FC / scale)
    layer.norm2, cross.to_k = placed, keyed
