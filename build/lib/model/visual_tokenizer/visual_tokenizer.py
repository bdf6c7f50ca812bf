"""An image as a few tokens for the language model, and as feature maps for the synchronizers.

Legend: N images, T tokens of an image, V patches, D width, C vision width, s side of a map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.positions import grid_table, resize_grid
from model.visual_tokenizer.perceiver import PerceiverResampler
from model.visual_tokenizer.vit_adapter import VisionAdapter

# Mean and standard deviation of the images that CLIP was trained on.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class VisualFeatures:
    """Output of the visual tokenizer."""

    tokens_NTD: Tensor
    """Tokens for the language model, in its width."""
    maps: tuple[Tensor, ...]
    """Four maps [N, C, s, s], finest first."""
    image_embeds_NVC: Tensor
    """The patches of the encoder, with positions."""

    def __len__(self) -> int:
        """The number of images."""
        return len(self.tokens_NTD)

    def select(self, indices: Tensor) -> VisualFeatures:
        """The features of some of the images."""
        return VisualFeatures(
            self.tokens_NTD[indices],
            tuple(map_NCss[indices] for map_NCss in self.maps),
            self.image_embeds_NVC[indices],
        )


class VisualTokenizer(nn.Module):
    """ViT-Adapter, positions, and the perceiver that condenses the patches."""

    clip_mean: Tensor
    clip_std: Tensor

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        width = config.vision.hidden_size
        self.config = config
        self.encoder = VisionAdapter(config.vision)
        self.pos_proj = nn.Linear(width, width)
        self.pos_ln = nn.LayerNorm(width, eps=1e-6)
        self.pos_embed = nn.Parameter(
            grid_table(width, config.vision.grid_size, cls_token=True), requires_grad=False
        )
        self.perceiver_resampler = PerceiverResampler(config.visual_perceiver)
        self.post_ln = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(config.visual_perceiver.hidden_size, config.llm.hidden_size)
        self.register_buffer("clip_mean", torch.tensor(CLIP_MEAN).view(1, 3, 1, 1))
        self.register_buffer("clip_std", torch.tensor(CLIP_STD).view(1, 3, 1, 1))
        nn.init.normal_(self.proj.weight, std=1e-3)
        nn.init.zeros_(self.proj.bias)

    def forward(self, pixels_N3SS: Tensor) -> VisualFeatures:
        """Tokens and maps of square images with values in [0, 1]."""
        if len(pixels_N3SS) == 0:
            return self._no_features()
        return self.condense(*self.encode(pixels_N3SS))

    def encode(self, pixels_N3SS: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Patches [N, 1 + V, C], the class token first, and four maps, without positions."""
        normalised_N3SS = (pixels_N3SS - self.clip_mean) / self.clip_std
        return self.encoder(normalised_N3SS.to(self.pos_proj.weight.dtype))

    def condense(self, encoded_NLC: Tensor, maps: tuple[Tensor, ...]) -> VisualFeatures:
        """Tokens, and maps with positions, from the output of `encode`."""
        perceiver_input_NLC = self.post_ln(
            self.pos_ln(self.pos_proj(encoded_NLC)) + self.pos_embed.to(encoded_NLC.dtype)
        )
        return VisualFeatures(
            tokens_NTD=self.proj(self.perceiver_resampler(perceiver_input_NLC)),
            maps=tuple(self._with_positions(map_NCss) for map_NCss in maps),
            image_embeds_NVC=encoded_NLC[:, 1:] + self.pos_embed[1:].to(encoded_NLC.dtype),
        )

    def _no_features(self) -> VisualFeatures:
        """The features of an empty batch."""
        config, empty = self.config, self.pos_proj.weight.new_empty
        width = config.image_embed_dim
        return VisualFeatures(
            tokens_NTD=empty(0, config.num_img_token, config.llm.hidden_size),
            maps=tuple(empty(0, width, side, side) for side in config.vision.map_sizes),
            image_embeds_NVC=empty(0, config.vision.grid_size**2, width),
        )

    def _with_positions(self, map_NCss: Tensor) -> Tensor:
        """Add the position table, resized to the map."""
        height, width = map_NCss.shape[-2:]
        table_LC = resize_grid(self.pos_embed[1:], height, width).to(map_NCss.dtype)
        return map_NCss + table_LC.T.unflatten(1, (height, width))
