"""MMFS, the feature synchronizer: queries read the multi-scale maps of all images they may see.

Legend: B batch, L queries, I images, V positions of an image's maps, S maps (levels), H heads,
P points, d width of a head, D width, R relative positions.

A query has one set of sampling places an image, head and point, the same on every map of that
image, and one logit an image, head, map and point. One softmax runs over all of them and a slot
for the ignore token whose logit is 0, that is `exp(x) / (1 + sum exp)`: with nothing to see the
output is the ignore token, and images that a query can't see change nothing.

Everything before `attend` depends on the image alone: `project` once, keep the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import SynchronizerConfig
from model.synchronizer.deformable_attention import deformable_attention

# Of an image that can't be seen. Representable in float16; its exponential is 0 in any type.
_HIDDEN = -10000.0


class FeatureSynchronizer(nn.Module):
    """Deformable cross-attention from a sequence to the maps of several images."""

    def __init__(
        self,
        d_query: int,
        d_value: int,
        d_model: int,
        d_out: int,
        spatial_shapes: Sequence[int],
        base_spatial_shape: int,
        config: SynchronizerConfig,
        offset_init_magnitude: float = 3.0,
    ) -> None:
        super().__init__()
        self.spatial_shapes = tuple(spatial_shapes)
        self.base_spatial_shape = base_spatial_shape
        self.n_heads, self.n_points = config.n_heads, config.n_points
        self.offset_init_magnitude = offset_init_magnitude
        inner = int(d_model * config.ratio)
        if inner % self.n_heads:
            raise ValueError(f"{self.n_heads} heads can't share {inner} channels evenly")
        num_logits = self.n_heads * len(self.spatial_shapes) * (self.n_points + 1)
        self.sampling_offsets = nn.Linear(d_query, self.n_heads * self.n_points * 2)
        self.ignore_token = nn.Parameter(torch.zeros(1, 1, 1, inner), requires_grad=False)
        self.dynamic_offset_mask = nn.Linear(d_query, d_query)
        self.attention_weights = nn.Linear(d_query, num_logits)
        self.value_proj = nn.Linear(d_value, inner)
        self.output_proj = nn.Linear(inner, d_out)
        self.query_relpos = nn.Embedding(config.max_num_image_per_seq, d_query)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Sample at random places around the reference point at first."""
        magnitude = self.offset_init_magnitude
        nn.init.zeros_(self.sampling_offsets.weight)
        nn.init.uniform_(self.sampling_offsets.bias, -magnitude, magnitude)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.xavier_uniform_(self.output_proj.weight)
        nn.init.trunc_normal_(self.query_relpos.weight, std=0.02)
        for linear in (
            self.attention_weights,
            self.value_proj,
            self.output_proj,
            self.dynamic_offset_mask,
        ):
            nn.init.zeros_(linear.bias)

    def forward(
        self,
        query_BLD: Tensor,
        features_BIVD: Tensor,
        reference_points_BL2: Tensor,
        visible_BLI: Tensor,
        official_decoding: bool = False,
    ) -> Tensor:
        """Project the features, then `attend`."""
        values_BIVHd = self.project(features_BIVD)
        return self.attend(
            query_BLD, values_BIVHd, reference_points_BL2, visible_BLI, official_decoding
        )

    def project(self, features_BIVD: Tensor) -> Tensor:
        """Values of every head at every position: [B, I, V, H, d]. Compute it once per image."""
        return self.value_proj(features_BIVD).unflatten(-1, (self.n_heads, -1))

    @property
    def nothing_D(self) -> Tensor:
        """What a query gets that sees no image, [d_out]."""
        nothing_D: Tensor = self.output_proj(self.ignore_token.flatten())
        return nothing_D

    def attend(
        self,
        query_BLD: Tensor,
        values_BIVHd: Tensor,
        reference_points_BL2: Tensor,
        visible_BLI: Tensor,
        official_decoding: bool = False,
    ) -> Tensor:
        """Let each query read the images that it sees.

        Args:
            query_BLD: queries.
            values_BIVHd: from `project`. I may be 0.
            reference_points_BL2: relative (x, y) of the queries, float32; B may be 1.
            visible_BLI: which images each query sees, in order of appearance: [B, L, I], or
                [B, I] for all queries alike.
            official_decoding: every query sees what the last row says, as each new token of the
                official code sees what the last token of the prompt saw.

        Returns:
            [B, L, d_out]

        Raises:
            ValueError: the mask has a row neither for each query nor for all.
        """
        visible_BLI = _rows(visible_BLI, query_BLD.shape[1], official_decoding)
        if visible_BLI.shape[-1] == 0:  # All of the softmax is the ignore token's.
            return self.nothing_D.expand(*query_BLD.shape[:2], -1)
        offsets_BILHP2, logits_BILHSP = self._predict(query_BLD, visible_BLI)
        weights_BILHSP, ignored_BLH = self._normalise(logits_BILHSP, visible_BLI)
        places_BILHP2 = (
            reference_points_BL2[:, None, :, None, None]
            + offsets_BILHP2.float() / self.base_spatial_shape
        )
        sampled_BLD = self._sample(values_BIVHd, places_BILHP2, weights_BILHSP)
        ignore_Hd = self.ignore_token.view(self.n_heads, -1)
        ignored_BLD = (ignored_BLH[..., None] * ignore_Hd).flatten(2)
        return self.output_proj(sampled_BLD + ignored_BLD.to(sampled_BLD.dtype))

    def _predict(self, query_BLD: Tensor, visible_BLI: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and logits of every query for every image.

        The image only enters by its relative position, added to the query before two linear
        maps. So these are applied once to the queries and once to the positions, not to pairs.
        """
        B, L, _ = query_BLD.shape
        num_images = visible_BLI.shape[-1]
        H, S, P = self.n_heads, len(self.spatial_shapes), self.n_points
        query_BLD = self.dynamic_offset_mask(query_BLD)
        relpos_RD = self.query_relpos.weight[: num_images + 1]
        relpos_BIL = self._relative_positions(visible_BLI).transpose(1, 2).expand(B, num_images, L)

        def pairs(linear: nn.Linear) -> Tensor:
            table_RD = F.linear(relpos_RD, linear.weight)
            return linear(query_BLD)[:, None] + F.embedding(relpos_BIL, table_RD)

        offsets_BILHP2 = pairs(self.sampling_offsets).view(B, num_images, L, H, P, 2)
        # The last logit of each map belongs to the ignore token and is a constant instead.
        logits_BILHSP = pairs(self.attention_weights).view(B, num_images, L, H, S, P + 1)[..., :-1]
        return offsets_BILHP2, logits_BILHSP

    @staticmethod
    def _relative_positions(visible_BLI: Tensor) -> Tensor:
        """1 for the latest image that a query sees, 2 for the one before, ..., 0 if hidden."""
        seen_BLI = visible_BLI.long()
        return (seen_BLI.sum(-1, keepdim=True) + 1 - seen_BLI.cumsum(-1)) * seen_BLI

    def _normalise(self, logits_BILHSP: Tensor, visible_BLI: Tensor) -> tuple[Tensor, Tensor]:
        """Softmax over all samples of a query and head, and the ignore token: weights, its mass."""
        B, num_images, L, H, S, P = logits_BILHSP.shape
        visible_BIL111 = visible_BLI.transpose(1, 2)[..., None, None, None]
        logits_BILHSP = logits_BILHSP.float().masked_fill(~visible_BIL111, _HIDDEN)
        logits_BLHN = logits_BILHSP.permute(0, 2, 3, 1, 4, 5).reshape(B, L, H, -1)
        weights_BLHN = F.pad(logits_BLHN, (0, 1)).softmax(-1)
        weights_BLHISP = weights_BLHN[..., :-1].view(B, L, H, num_images, S, P)
        return weights_BLHISP.permute(0, 3, 1, 2, 4, 5), weights_BLHN[..., -1]

    def _sample(
        self, values_BIVHd: Tensor, places_BILHP2: Tensor, weights_BILHSP: Tensor
    ) -> Tensor:
        """Weighted sum of the samples from all images: [B, L, H * d]."""
        B, num_images, L, H, P, _ = places_BILHP2.shape
        S = len(self.spatial_shapes)
        # As one long list of maps: I * S maps, positions image by image.
        values_BVHd = values_BIVHd.flatten(1, 2)
        places_BLHSP2 = places_BILHP2.permute(0, 2, 3, 1, 4, 5)[:, :, :, :, None]
        places_BLHSP2 = places_BLHSP2.expand(B, L, H, num_images, S, P, 2).flatten(3, 4)
        weights_BLHSP = weights_BILHSP.permute(0, 2, 3, 1, 4, 5).flatten(3, 4)
        shapes = [(side, side) for side in self.spatial_shapes] * num_images
        return deformable_attention(values_BVHd, shapes, places_BLHSP2, weights_BLHSP)


def _rows(visible: Tensor, num_queries: int, official_decoding: bool) -> Tensor:
    """A mask [B, I] or [B, L, I] as rows of booleans: [B, L, I], or [B, 1, I] for all queries."""
    if visible.ndim == 2:
        visible = visible.unsqueeze(1)
    elif official_decoding:
        visible = visible[:, -1:]
    elif visible.shape[1] != num_queries:
        raise ValueError(f"{visible.shape[1]} rows of visibility for {num_queries} queries")
    return visible.bool()
