"""Synchronizers for inference: constant matrices are multiplied once, at load.

Legend: B images, N rows (a multiple of B), V positions of the maps, H heads, d width of a sampled
vector, L positions of a skip, C channels, D model width, X offsets and logits of a query,
R relative positions, Y = d and the extra columns of a kernel.

Offsets and logits are two linear maps of (a linear map of the query + the embedding of the image's
relative position): one matrix, and a table by relative position (`FoldedQuery`). Sampling lies
between linear maps, so what follows it folds too:

* The language model samples the raw features of many images and projects the few sampled vectors
  (`fold_layer`): no projected copy of the features is kept.
* The U-Net reads one image at most, so its relative position is a constant. It samples projected
  values, and its output projection and 1x1 convolution are one matrix (`FoldedBlock`). Where a skip
  has fewer channels than a head, that matrix is applied to the values once per image instead of to
  the samples at every step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.positions import resize_grid
from model.synchronizer.deformable_attention import grid_centers
from model.synchronizer.geometry import Geometry
from model.synchronizer.maps import MapSampling, default_sampling
from model.synchronizer.unet_synchronizer import SynchronizerBlock, UNetSynchronizer


@dataclass(frozen=True)
class FoldedQuery:
    """From a normalised query to offsets and logits: one affine map, and a part of each image."""

    weight_XD: Tensor
    bias_X: Tensor
    relative_RX: Tensor

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], geometry: Geometry) -> FoldedQuery:
        """Fold the parameters of a `FeatureSynchronizer`, under the names that they have there."""
        slots = (geometry.num_heads, len(geometry.sides), geometry.num_points + 1)

        def without_ignored(x: Tensor) -> Tensor:
            """Drop each map's last slot: the ignore token's, whose logit is a constant."""
            return x.unflatten(0, slots)[:, :, :-1].flatten(0, 2)

        logits_XD = without_ignored(weights["attention_weights.weight"])
        logits_X = without_ignored(weights["attention_weights.bias"])
        both_XD = torch.cat((weights["sampling_offsets.weight"], logits_XD))
        both_X = torch.cat((weights["sampling_offsets.bias"], logits_X))
        return cls(
            weight_XD=both_XD @ weights["dynamic_offset_mask.weight"],
            bias_X=both_X + both_XD @ weights["dynamic_offset_mask.bias"],
            relative_RX=weights["query_relpos.weight"] @ both_XD.T,
        )


@dataclass(frozen=True)
class FoldedLayer:
    """A synchronizer layer of the language model, in the form in which it runs."""

    query_XD: Tensor
    query_bias_X: Tensor
    relative_RX: Tensor
    value_HYd: Tensor  # [channels, ignore token, bias of the value projection]
    output_DV: Tensor
    output_bias_D: Tensor


def fold_layer(weights: Mapping[str, Tensor], geometry: Geometry) -> FoldedLayer:
    """Fold a layer's official parameters, its norm of features and gate; all in float32."""
    weights = {name: tensor.float() for name, tensor in weights.items()}
    attention = {name.removeprefix("attn."): tensor for name, tensor in weights.items()}
    query = FoldedQuery.of(attention, geometry)
    value_VC = attention["value_proj.weight"] * weights["norm2.weight"]
    value_HdC = value_VC.unflatten(0, (geometry.num_heads, -1))
    ignore_Hd1 = attention["ignore_token"].view(geometry.num_heads, -1, 1)
    bias_Hd1 = attention["value_proj.bias"].view(geometry.num_heads, -1, 1)
    gate = weights["gate"].tanh()
    return FoldedLayer(
        query_XD=query.weight_XD,
        query_bias_X=query.bias_X,
        relative_RX=query.relative_RX,
        value_HYd=torch.cat((value_HdC, ignore_Hd1, bias_Hd1), -1).transpose(1, 2),
        output_DV=attention["output_proj.weight"] * gate,
        output_bias_D=attention["output_proj.bias"] * gate,
    )


class FoldedBlock(nn.Module):
    """A `SynchronizerBlock` that reads a single image."""

    query_XC: Tensor
    query_X: Tensor
    out_CHY: Tensor
    out_CHd: Tensor
    out_C: Tensor
    nothing_C: Tensor
    ignore_HC: Tensor
    pos_embed: Tensor

    @torch.no_grad()
    def __init__(self, block: SynchronizerBlock, sampling: MapSampling) -> None:
        super().__init__()
        mmfs = block.mmfs
        self.sampling = sampling
        self.query_norm, self.feat_norm = block.query_norm, block.feat_norm
        self.value_proj = mmfs.value_proj
        out_CHd, out_C = _output(block)
        C, H, d = out_CHd.shape
        self.early = d > C
        self.geometry = Geometry.of_maps(
            H, mmfs.n_points, mmfs.spatial_shapes, mmfs.base_spatial_shape, C if self.early else d
        )
        query = FoldedQuery.of(mmfs.state_dict(), self.geometry)
        ignore_HC = torch.einsum("hd,chd->hc", mmfs.ignore_token.view(H, d), out_CHd)
        buffers = {
            "query_XC": query.weight_XD,
            "query_X": query.bias_X + query.relative_RX[1],
            "out_C": out_C,
            "nothing_C": block.nothing_C,
            "pos_embed": block.pos_embed.detach(),
        }
        if self.early:
            buffers |= {"out_CHd": out_CHd, "ignore_HC": ignore_HC}
        else:  # Behind a sum are the mass on the ignore token, and columns that do not matter here.
            out_CHY = torch.cat((out_CHd, ignore_HC.T[..., None]), -1)
            buffers["out_CHY"] = F.pad(out_CHY, (0, sampling.extra - 1))
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def tables(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Positions [L, C] and reference points [L, 2] of a skip's grid; computed once a grid."""
        if (height, width) not in self._tables:
            reference_1L2 = grid_centers([(height, width)], self.pos_embed.device)
            positions_LC = resize_grid(self.pos_embed, height, width)
            self._tables[height, width] = positions_LC, reference_1L2[0]
        return self._tables[height, width]

    def project(self, features_B1VD: Tensor) -> Tensor:
        """Values of the conditioning image, in the layout of the sampling."""
        values_BVD = self.value_proj(self.feat_norm(features_B1VD[:, 0]))
        values_BVHd = values_BVD.unflatten(-1, (self.geometry.num_heads, -1))
        if self.early:
            values_BVHd = torch.einsum("bvhd,chd->bvhc", values_BVHd, self.out_CHd)
        return self.sampling.arrange(values_BVHd)

    def attend(self, sample_NCHW: Tensor, values: Tensor, visible_B1: Tensor) -> Tensor:
        """The residual of a skip."""
        positions_LC, reference_L2 = self.tables(sample_NCHW.shape[2], sample_NCHW.shape[3])
        query_NLC = self.query_norm(sample_NCHW.flatten(2).transpose(1, 2)) + positions_LC
        sampled_NLHY = self.sampling.sample(
            self.geometry,
            values,
            F.linear(query_NLC, self.query_XC, self.query_X),
            reference_L2,
            visible_B1[:, 0],
        )
        if self.early:
            channels = self.geometry.channels
            ignored_NLC = sampled_NLHY[..., channels] @ self.ignore_HC
            out_NCL = (sampled_NLHY[..., :channels].sum(2) + ignored_NLC).transpose(1, 2)
        else:
            out_NCL = torch.matmul(self.out_CHY.flatten(1), sampled_NLHY.flatten(2).transpose(1, 2))
        return (out_NCL + self.out_C[:, None]).view_as(sample_NCHW)


class FoldedSynchronizer(nn.Module):
    """A `UNetSynchronizer` of blocks that read a single image."""

    def __init__(self, synchronizer: UNetSynchronizer, sampling: MapSampling | None = None) -> None:
        super().__init__()
        weight = synchronizer.mmfs_mid_block.conv.weight
        chosen = sampling or default_sampling(weight.device, weight.dtype)
        self._blocks = nn.ModuleList(FoldedBlock(block, chosen) for block in synchronizer.blocks)

    @property
    def blocks(self) -> tuple[FoldedBlock, ...]:
        """The skips' blocks in order, then the middle's."""
        return tuple(self._blocks)  # type: ignore[arg-type]

    def project(self, features_B1VD: Tensor) -> tuple[Tensor, ...]:
        """Every block's values of the conditioning image."""
        return tuple(block.project(features_B1VD) for block in self.blocks)


def _output(block: SynchronizerBlock) -> tuple[Tensor, Tensor]:
    """Output projection and convolution as one: weight [C, H, d], bias [C]."""
    mmfs, conv_CC, conv_C = block.mmfs, block.conv.weight[:, :, 0, 0], block.conv.bias
    assert conv_C is not None
    weight_CD = conv_CC @ mmfs.output_proj.weight
    bias_C = conv_CC @ mmfs.output_proj.bias + conv_C
    return weight_CD.unflatten(1, (mmfs.n_heads, -1)), bias_C
