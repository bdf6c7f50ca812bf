"""MMFS on the U-Net: every skip connection and the middle read the previous image's maps.

Legend: B images, N rows of the U-Net (B, or 2B when both guidance halves differ), C channels,
I conditioning images (one in practice), V positions of their maps, H heads, d head width, L
positions of a skip, D width.

What depends on the conditioning image alone (`project`) is computed once per image. Both
guidance halves read the same values: their rows are folded into the queries of one image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig, SynchronizerConfig
from model.positions import grid_table, resize_grid
from model.synchronizer.deformable_attention import grid_centers
from model.synchronizer.feature_synchronizer import FeatureSynchronizer


class SynchronizerBlock(nn.Module):
    """What one skip connection, or the middle, gets from the conditioning images."""

    def __init__(
        self,
        query_width: int,
        feature_width: int,
        grid_size: int,
        spatial_shapes: Sequence[int],
        base_spatial_shape: int,
        config: SynchronizerConfig,
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(query_width, eps=1e-6)
        self.feat_norm = nn.LayerNorm(feature_width, eps=1e-6)
        self.mmfs = FeatureSynchronizer(
            query_width,
            feature_width,
            config.attn_dim or query_width,
            query_width,
            spatial_shapes,
            base_spatial_shape,
            config,
            offset_init_magnitude=1.0,
        )
        self.pos_embed = nn.Parameter(grid_table(query_width, grid_size), requires_grad=False)
        self.conv = nn.Conv2d(query_width, query_width, kernel_size=1)
        for parameter in self.conv.parameters():
            nn.init.zeros_(parameter)

    def project(self, features_BIVD: Tensor) -> Tensor:
        """Values of the conditioning images, [B, I, V, H, d]: constant over all steps."""
        return self.mmfs.project(self.feat_norm(features_BIVD))

    def attend(self, sample_NCHW: Tensor, values_BIVHd: Tensor, visible_BI: Tensor) -> Tensor:
        """The residual [N, C, height, width] of a skip whose N is a multiple of B."""
        query_NLC = self.queries(sample_NCHW)
        reference_1L2 = grid_centers([(sample_NCHW.shape[2], sample_NCHW.shape[3])]).to(
            sample_NCHW.device
        )
        halves = sample_NCHW.shape[0] // values_BIVHd.shape[0]
        out_BLC = self.mmfs.attend(
            fold_halves(query_NLC, halves),
            values_BIVHd,
            reference_1L2.repeat(1, halves, 1),
            visible_BI,
        )
        out_NLC = unfold_halves(out_BLC, halves)
        return self.conv(out_NLC.transpose(1, 2).reshape_as(sample_NCHW))

    @property
    def nothing_C(self) -> Tensor:
        """The residual of every place of a skip that sees no image, [C]."""
        nothing_1C11: Tensor = self.conv(self.mmfs.nothing_D[None, :, None, None])
        return nothing_1C11.flatten()

    def queries(self, sample_NCHW: Tensor) -> Tensor:
        """Normalised positions of a skip with their place in the image added: [N, L, C]."""
        height, width = sample_NCHW.shape[-2:]
        query_NLC: Tensor = self.query_norm(sample_NCHW.flatten(2).transpose(1, 2))
        return query_NLC + resize_grid(self.pos_embed, height, width)

    def forward(self, sample_NCHW: Tensor, features_BIVD: Tensor, visible_BI: Tensor) -> Tensor:
        """`project`, then `attend`."""
        return self.attend(sample_NCHW, self.project(features_BIVD), visible_BI)


class UNetSynchronizer(nn.Module):
    """One block for every skip connection of a U-Net, in their order, and one for its middle."""

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        decoder = config.image_decoder
        widths = tuple(decoder.unet["block_out_channels"])
        layers = int(decoder.unet["layers_per_block"])
        grid = decoder.latent_size

        def block(width: int, level: int) -> SynchronizerBlock:
            return SynchronizerBlock(
                width,
                config.image_embed_dim,
                grid,
                config.vision.map_sizes,
                grid >> level,
                decoder.synchronizer,
            )

        skip_widths = skip_channels(widths, layers)
        self.mmfs_down_blocks = nn.ModuleList(
            block(width, index // (layers + 1)) for index, width in enumerate(skip_widths)
        )
        self.mmfs_mid_block = block(widths[-1], len(widths) - 1)

    @property
    def blocks(self) -> tuple[SynchronizerBlock, ...]:
        """All blocks: the skips' in order, then the middle's."""
        return (*self.mmfs_down_blocks, self.mmfs_mid_block)

    def project(self, features_BIVD: Tensor) -> tuple[Tensor, ...]:
        """Every block's values of the conditioning images: compute them once per image."""
        return tuple(block.project(features_BIVD) for block in self.blocks)


def skip_channels(widths: Sequence[int], layers_per_block: int) -> list[int]:
    """Channels of a U-Net's skips: the input's, each layer's, and each downsampling's."""
    channels = [widths[0]]
    for level, width in enumerate(widths):
        channels += [width] * layers_per_block
        if level < len(widths) - 1:
            channels.append(width)
    return channels


def flatten_maps(maps: Sequence[Tensor]) -> Tensor:
    """Square maps [..., D, s, s] as one list of positions [..., V, D], in the order given."""
    return torch.cat([features.flatten(-2).transpose(-1, -2) for features in maps], dim=-2)


def fold_halves(query_NLC: Tensor, halves: int) -> Tensor:
    """Rows of the same image, side by side: [h * B, L, C] to [B, h * L, C]."""
    if halves == 1:
        return query_NLC
    return query_NLC.unflatten(0, (halves, -1)).transpose(0, 1).flatten(1, 2)


def unfold_halves(out_BLC: Tensor, halves: int) -> Tensor:
    """Undo `fold_halves`."""
    if halves == 1:
        return out_BLC
    return out_BLC.unflatten(1, (halves, -1)).transpose(0, 1).flatten(0, 1)
