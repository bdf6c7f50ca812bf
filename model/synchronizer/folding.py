"""The U-Net's synchronizer for inference: one conditioning image, constant matrices multiplied.

Legend: B images, N rows (a multiple of B), V positions of the maps, D feature width, H heads, d
width of a sampled vector, L positions of a skip, C channels, K predicted numbers of a query.

An image has one conditioning image at most, so its relative position is a constant. That makes
offsets and logits one affine map of the query (dynamic offset mask and relative position folded
in), and the output projection and the 1x1 convolution another one. Where a skip has fewer
channels than a head, the latter is applied to the values once per image instead of to the
samples at every step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.positions import resize_grid
from model.synchronizer.deformable_attention import grid_centers
from model.synchronizer.map_sampling import Sampling, SamplingShape, default_sampling
from model.synchronizer.unet_synchronizer import SynchronizerBlock, UNetSynchronizer


class FoldedBlock(nn.Module):
    """A `SynchronizerBlock` that reads a single image."""

    predict_KC: Tensor
    predict_K: Tensor
    out_CHd: Tensor
    out_C: Tensor
    ignore_Hd: Tensor
    pos_embed: Tensor

    @torch.no_grad()
    def __init__(self, block: SynchronizerBlock, sampling: Sampling) -> None:
        super().__init__()
        mmfs = block.mmfs
        self.sampling = sampling
        self.shape = SamplingShape(
            mmfs.n_heads, mmfs.n_points, mmfs.spatial_shapes, mmfs.base_spatial_shape
        )
        self.query_norm, self.feat_norm = block.query_norm, block.feat_norm
        self.value_proj = mmfs.value_proj
        weight_KC, bias_K = _predictor(block)
        out_CHd, out_C = _output(block)
        C, H, d = out_CHd.shape
        self.early = d > C
        self.register_buffer("predict_KC", weight_KC, persistent=False)
        self.register_buffer("predict_K", bias_K, persistent=False)
        self.register_buffer("out_CHd", out_CHd, persistent=False)
        self.register_buffer("out_C", out_C, persistent=False)
        ignore_Hd = self._into_channels(mmfs.ignore_token.view(H, d))
        self.register_buffer("ignore_Hd", ignore_Hd, persistent=False)
        self.register_buffer("pos_embed", block.pos_embed.detach(), persistent=False)
        self._tables: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def tables(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Positions [L, C] and reference points [L, 2] of a skip's grid; computed once a grid."""
        if (height, width) not in self._tables:
            reference_1L2 = grid_centers([(height, width)]).to(self.pos_embed.device)
            positions_LC = resize_grid(self.pos_embed, height, width)
            self._tables[height, width] = positions_LC, reference_1L2[0]
        return self._tables[height, width]

    def _into_channels(self, values_Hd: Tensor) -> Tensor:
        """Apply the output projection to a head's vectors [..., H, d] early, if that pays."""
        if not self.early:
            return values_Hd
        return torch.einsum("...hd,chd->...hc", values_Hd, self.out_CHd)

    def project(self, features_B1VD: Tensor) -> Tensor:
        """Values of the conditioning image, in the layout of the sampling."""
        values_BVD = self.value_proj(self.feat_norm(features_B1VD[:, 0]))
        values_BVHd = values_BVD.unflatten(-1, (self.shape.heads, -1))
        return self.sampling.arrange(self._into_channels(values_BVHd))

    def attend(self, sample_NCHW: Tensor, values: Tensor, visible_B1: Tensor) -> Tensor:
        """The residual of a skip."""
        positions_LC, reference_L2 = self.tables(sample_NCHW.shape[2], sample_NCHW.shape[3])
        query_NLC = self.query_norm(sample_NCHW.flatten(2).transpose(1, 2)) + positions_LC
        sampled_NLD = self.sampling.sample(
            self.shape,
            values,
            F.linear(query_NLC, self.predict_KC, self.predict_K),
            reference_L2,
            visible_B1[:, 0],
            self.ignore_Hd,
        )
        if self.early:
            sampled_NLHC = sampled_NLD.unflatten(-1, (self.shape.heads, -1))
            out_NCL = sampled_NLHC.sum(2).transpose(1, 2)
        else:
            out_NCL = torch.matmul(self.out_CHd.flatten(1), sampled_NLD.transpose(1, 2))
        residual: Tensor = (out_NCL + self.out_C[:, None]).view_as(sample_NCHW)
        return residual


class FoldedSynchronizer(nn.Module):
    """A `UNetSynchronizer` of blocks that read a single image."""

    def __init__(self, synchronizer: UNetSynchronizer, sampling: Sampling | None = None) -> None:
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


def _predictor(block: SynchronizerBlock) -> tuple[Tensor, Tensor]:
    """The affine map from a normalised query to offsets and logits: weight [K, C], bias [K]."""
    mmfs = block.mmfs
    H, S, P = mmfs.n_heads, len(mmfs.spatial_shapes), mmfs.n_points

    def without_ignored(x: Tensor) -> Tensor:
        """Drop each map's last slot, which is a constant."""
        kept: Tensor = x.unflatten(0, (H, S, P + 1))[:, :, :P].flatten(0, 2)
        return kept

    offsets, logits = mmfs.sampling_offsets, mmfs.attention_weights
    weight_KC = torch.cat((offsets.weight, without_ignored(logits.weight)))
    bias_K = torch.cat((offsets.bias, without_ignored(logits.bias)))
    query_bias_C = mmfs.dynamic_offset_mask.bias + mmfs.query_relpos.weight[1]
    return weight_KC @ mmfs.dynamic_offset_mask.weight, bias_K + weight_KC @ query_bias_C


def _output(block: SynchronizerBlock) -> tuple[Tensor, Tensor]:
    """Output projection and convolution as one: weight [C, H, d], bias [C]."""
    mmfs, conv_CC, conv_C = block.mmfs, block.conv.weight[:, :, 0, 0], block.conv.bias
    assert conv_C is not None
    weight_CD = conv_CC @ mmfs.output_proj.weight
    bias_C = conv_CC @ mmfs.output_proj.bias + conv_C
    return weight_CD.unflatten(1, (mmfs.n_heads, -1)), bias_C
