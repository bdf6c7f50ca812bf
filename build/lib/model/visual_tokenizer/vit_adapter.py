"""CLIP ViT with ViT-Adapter: one token a patch, and feature maps of four sizes.

Legend: N images, L tokens, C channels, D width, h/w rows and columns of a map.

Two streams of tokens exchange information: the ViT's patches, and a convolutional prior of the
image (maps of side 2g, g, g/2 for a patch grid of side g, as one list of tokens). In each
interaction the patches read the prior (inject), pass some ViT layers, and the prior reads them
(extract). Module names follow the published checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPVisionConfig
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from model.config.schema import VisionConfig
from model.synchronizer.deformable_attention import DeformableAttention, grid_centers
from model.visual_tokenizer.spatial_prior import SpatialPrior

# The spatial prior sees the image at this many pixels a patch, whatever the ViT's patch size.
_PRIOR_PATCH = 16


class VisionAdapter(nn.Module):
    """The published checkpoint nests everything in `vision_model`."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.vision_model = VisionTransformerAdapter(config)

    def forward(self, pixels_N3hw: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """See `VisionTransformerAdapter.forward`."""
        return self.vision_model(pixels_N3hw)


class VisionTransformerAdapter(nn.Module):
    """CLIP's ViT, whose layers run in groups, with an interaction around each group."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        if config.grid_size % 2:
            raise ValueError(f"the adapter needs an even patch grid, not {config.grid_size}")
        width, g = config.hidden_size, config.grid_size
        self.grid_size = g
        self.interaction_indexes = config.interaction_indexes
        self.embeddings = PatchEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.encoder = nn.ModuleDict({"layers": _clip_layers(config)})
        self.adapter_level_embed = nn.Parameter(torch.zeros(3, width))
        self.adapter_spm = SpatialPrior(config.conv_inplane, width)
        last = len(config.interaction_indexes) - 1
        self.adapter_interactions = nn.ModuleList(
            Interaction(config, extra_extractors=2 if i == last else 0) for i in range(last + 1)
        )
        self.adapter_up = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2)

    def forward(self, pixels_N3hw: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Encode normalised images.

        Returns:
            The tokens [N, 1 + g * g, D], class token first, and four maps [N, D, s, s] with s =
            4g, 2g, g, g/2.
        """
        g = self.grid_size
        prior_side = g * _PRIOR_PATCH
        resized_N3hw = F.interpolate(
            pixels_N3hw, size=(prior_side, prior_side), mode="bilinear", align_corners=False
        )
        finest_NDhw, prior_NLD = self.adapter_spm(resized_N3hw, self.adapter_level_embed)
        tokens_NLD = self.pre_layrnorm(self.embeddings(pixels_N3hw))
        layers = tuple(self.encoder["layers"].children())
        stages_NDhw = []
        for interaction, (first, last) in zip(
            self.adapter_interactions, self.interaction_indexes, strict=True
        ):
            tokens_NLD, prior_NLD = interaction(tokens_NLD, prior_NLD, layers[first : last + 1])
            stages_NDhw.append(_as_map(tokens_NLD[:, 1:], g))
        return tokens_NLD, self._maps(finest_NDhw, prior_NLD, stages_NDhw)

    def _maps(
        self, finest_NDhw: Tensor, prior_NLD: Tensor, stages_NDhw: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Add the ViT's stages to the prior's maps, size by size."""
        fine, middle, coarse = _as_maps(prior_NLD, self.grid_size)
        maps = (self.adapter_up(fine) + finest_NDhw, fine, middle, coarse)
        return tuple(
            map_NDhw
            + F.interpolate(
                stage_NDhw, size=map_NDhw.shape[-2:], mode="bilinear", align_corners=False
            )
            for map_NDhw, stage_NDhw in zip(maps, stages_NDhw, strict=True)
        )


class PatchEmbeddings(nn.Module):
    """Class token and patches with learned positions."""

    position_ids: Tensor

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, num_positions = config.hidden_size, config.grid_size**2 + 1
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.patch_embedding = nn.Conv2d(
            3, width, kernel_size=config.patch_size, stride=config.patch_size, bias=False
        )
        self.position_embedding = nn.Embedding(num_positions, width)
        # Never read, but part of the published checkpoint: positions are 0, 1, 2, ...
        self.register_buffer("position_ids", torch.arange(num_positions).unsqueeze(0))

    def forward(self, pixels_N3hw: Tensor) -> Tensor:
        """Tokens [N, 1 + g * g, D], the class token first."""
        patches_NLD = self.patch_embedding(pixels_N3hw).flatten(2).transpose(1, 2)
        class_N1D = self.class_embedding.expand(len(pixels_N3hw), 1, -1)
        return torch.cat((class_N1D, patches_NLD), 1) + self.position_embedding.weight


def _clip_layers(config: VisionConfig) -> nn.ModuleList:
    clip = CLIPVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_attention_heads=config.num_attention_heads,
        layer_norm_eps=config.layer_norm_eps,
        hidden_act="quick_gelu",
        attn_implementation="sdpa",
    )
    return nn.ModuleList(CLIPEncoderLayer(clip) for _ in range(config.num_hidden_layers))


class Interaction(nn.Module):
    """Inject the prior into the patches, run ViT layers, extract into the prior."""

    def __init__(self, config: VisionConfig, extra_extractors: int) -> None:
        super().__init__()
        self.injector = Injector(config)
        self.extractor = Extractor(config)
        self.extra_extractors: nn.ModuleList | None = None
        if extra_extractors:
            self.extra_extractors = nn.ModuleList(
                Extractor(config) for _ in range(extra_extractors)
            )

    def forward(
        self, tokens_NLD: Tensor, prior_NLD: Tensor, layers: Sequence[nn.Module]
    ) -> tuple[Tensor, Tensor]:
        """Tokens (class token first) and prior, both updated."""
        patches_NLD = self.injector(tokens_NLD[:, 1:], prior_NLD)
        tokens_NLD = torch.cat((tokens_NLD[:, :1], patches_NLD), 1)
        for layer in layers:
            tokens_NLD = layer(tokens_NLD, attention_mask=None)
        for extractor in (self.extractor, *(self.extra_extractors or ())):
            prior_NLD = extractor(prior_NLD, tokens_NLD[:, 1:])
        return tokens_NLD, prior_NLD


class Injector(nn.Module):
    """Patches read the three maps of the prior."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, g = config.hidden_size, config.grid_size
        self.shapes, self.prior_shapes = [(g, g)], _prior_shapes(g)
        self.query_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.feat_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attn = DeformableAttention(
            width,
            self.prior_shapes,
            config.num_attention_heads,
            config.n_points,
            config.deform_ratio,
        )
        self.gamma = nn.Parameter(torch.zeros(width))

    def forward(self, patches_NLD: Tensor, prior_NLD: Tensor) -> Tensor:
        reference_1L2 = grid_centers(self.shapes, patches_NLD.device)
        query_NLD, features_NVD = self.query_norm(patches_NLD), self.feat_norm(prior_NLD)
        return patches_NLD + self.gamma * self.attn(query_NLD, reference_1L2, features_NVD)


class Extractor(nn.Module):
    """The prior reads the patches; then a convolutional feed-forward."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, g, eps = config.hidden_size, config.grid_size, config.layer_norm_eps
        self.prior_shapes = _prior_shapes(g)
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.feat_norm = nn.LayerNorm(width, eps=eps)
        self.attn = DeformableAttention(
            width, [(g, g)], config.num_attention_heads, config.n_points, config.deform_ratio
        )
        self.ffn = ConvolutionalFeedForward(width, int(width * config.cffn_ratio), g)
        self.ffn_norm = nn.LayerNorm(width, eps=eps)

    def forward(self, prior_NLD: Tensor, patches_NLD: Tensor) -> Tensor:
        reference_1L2 = grid_centers(self.prior_shapes, prior_NLD.device)
        query_NLD, features_NVD = self.query_norm(prior_NLD), self.feat_norm(patches_NLD)
        prior_NLD = prior_NLD + self.attn(query_NLD, reference_1L2, features_NVD)
        return prior_NLD + self.ffn(self.ffn_norm(prior_NLD))


class ConvolutionalFeedForward(nn.Module):
    """Feed-forward with a depthwise convolution on each map of the prior in between."""

    def __init__(self, width: int, inner: int, grid_size: int) -> None:
        super().__init__()
        self.grid_size = grid_size
        self.fc1 = nn.Linear(width, inner)
        self.dwconv = nn.ModuleDict(
            {"dwconv": nn.Conv2d(inner, inner, kernel_size=3, padding=1, groups=inner)}
        )
        self.fc2 = nn.Linear(inner, width)

    def forward(self, prior_NLD: Tensor) -> Tensor:
        maps_NChw = _as_maps(self.fc1(prior_NLD), self.grid_size)
        convolved_NLC = torch.cat(
            [self.dwconv["dwconv"](map_NChw).flatten(2) for map_NChw in maps_NChw], 2
        ).transpose(1, 2)
        return self.fc2(F.gelu(convolved_NLC))


def _prior_shapes(grid_size: int) -> list[tuple[int, int]]:
    """The maps of the prior for a patch grid."""
    return [(side, side) for side in (2 * grid_size, grid_size, grid_size // 2)]


def _as_map(tokens_NLD: Tensor, side: int) -> Tensor:
    """Tokens, row by row, as a square map."""
    return tokens_NLD.transpose(1, 2).unflatten(2, (side, side))


def _as_maps(prior_NLD: Tensor, grid_size: int) -> tuple[Tensor, ...]:
    """The prior's tokens as its three maps."""
    sides = [side for side, _ in _prior_shapes(grid_size)]
    parts_NLD = prior_NLD.split([side * side for side in sides], 1)
    return tuple(_as_map(part, side) for part, side in zip(parts_NLD, sides, strict=True))
