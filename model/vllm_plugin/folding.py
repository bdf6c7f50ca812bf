"""Folds what no query changes into fewer and smaller matrices, once, at load.

Legend: D model width, C feature channels, X offsets and logits of a query, R relative positions,
H heads, d width of a head.

The official module computes, per token and image, offsets and logits as two linear maps of
(linear map of the query + embedding of the relative position); per image, values as a linear map
of normalised features; and scales its output by tanh(gate). All of it is linear around the
sampling, so it becomes one matrix before, one small matrix per head after it, and one behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from model.vllm_plugin.geometry import Geometry
from model.vllm_plugin.sampling import EXTRA


@dataclass(frozen=True)
class FoldedWeights:
    """The synchronizer's weights in the form in which it runs."""

    query_XD: torch.Tensor
    query_bias_X: torch.Tensor
    relative_RX: torch.Tensor
    value_HCd: torch.Tensor  # two more rows: the value's bias, the ignore token
    output_DV: torch.Tensor
    output_bias_D: torch.Tensor


def fold(weights: Mapping[str, torch.Tensor], geometry: Geometry) -> FoldedWeights:
    """Fold a synchronizer layer's official parameters; all arithmetic in float32."""
    w = {name: tensor.float() for name, tensor in weights.items()}
    heads, levels, points = geometry.num_heads, len(geometry.sides), geometry.num_points
    logits_HSPD = w["attn.attention_weights.weight"].view(heads, levels, points + 1, -1)
    logit_bias_HSP = w["attn.attention_weights.bias"].view(heads, levels, points + 1)
    # The last slot of each map is the ignore token's; its logit is a constant.
    two_XD = torch.cat((w["attn.sampling_offsets.weight"], logits_HSPD[:, :, :-1].flatten(0, 2)), 0)
    bias_X = torch.cat((w["attn.sampling_offsets.bias"], logit_bias_HSP[..., :-1].flatten()))
    value_VC = w["attn.value_proj.weight"] * w["norm2.weight"]
    width = geometry.value_width // heads
    value_HCd = torch.empty(heads, geometry.channels + EXTRA, width)
    value_HCd[:, : geometry.channels] = value_VC.view(heads, width, -1).transpose(1, 2)
    value_HCd[:, -2] = w["attn.value_proj.bias"].view(heads, width)
    value_HCd[:, -1] = w["attn.ignore_token"].view(heads, width)
    gate = w["gate"].tanh()
    return FoldedWeights(
        query_XD=two_XD @ w["attn.dynamic_offset_mask.weight"],
        query_bias_X=two_XD @ w["attn.dynamic_offset_mask.bias"] + bias_X,
        relative_RX=w["attn.query_relpos.weight"] @ two_XD.T,
        value_HCd=value_HCd,
        output_DV=w["attn.output_proj.weight"] * gate,
        output_bias_D=w["attn.output_proj.bias"] * gate,
    )
