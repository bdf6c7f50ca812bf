"""MM-Interleaved: the composition.

    images ─ visual_tokenizer ─┬─ tokens ─ placeholders among the text ─ mm_decoder ─ hidden states
                               └─ maps ─┬─ synchronizers of mm_decoder ──┘            │
                                        └─ synchronizers of image_decoder ──┐         │
    next tokens ─ text_decoder ─────────────────────────────────────────────┼─────────┤
    next image ── image_decoder ────────────────────────────────────────────┴─ context_feat_proj

An image enters the language model twice: condensed into T tokens among the text, and as feature
maps that some layers look at (`FeatureSynchronizer`). An image is generated from the hidden states
before it, and from the feature maps of an earlier image (`previous_images`).

Legend: B sequences, L tokens, I images of a sequence, N images of the whole batch, T tokens of an
image, K context length, S side of an image, s side of a map, V positions of all maps, D width.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.image_decoder.image_tokens import ImageTokenizer
from model.positions import sequence_table
from model.text_decoder import context
from model.text_decoder.text_decoder import Cache, LanguageModel, TextHead, VisibleImages
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

if TYPE_CHECKING:
    from model.image_decoder.image_decoder import ImageDecoder

ALL = (
    "soi_token",
    "visual_tokenizer",
    "mm_decoder",
    "text_decoder",
    "image_decoder",
    "context_feat_proj",
)
# The components of text workers and of image workers.
TEXT = (*(name for name in ALL if name != "image_decoder"), "image_decoder.perceiver_resampler")
IMAGE = ("visual_tokenizer", "image_decoder")


@dataclass(frozen=True)
class Batch:
    """Sequences and the images in them.

    Attributes:
        text_ids_BL: tokens; an image is `<soi>` and its placeholders.
        pixels_N3SS: the images in reading order, in [0, 1].
        num_images_B: how many of them belong to each sequence.
        attention_mask_BL: 0 for padding; None means no padding.
        bos_columns_N: where the context of each image begins; None means at the row's beginning.
        num_given_B: how many images of each sequence come before its answer; None means all.
    """

    text_ids_BL: Tensor
    pixels_N3SS: Tensor
    num_images_B: Tensor
    attention_mask_BL: Tensor | None = None
    bos_columns_N: Tensor | None = None
    num_given_B: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        present = {name: tensor for name, tensor in vars(self).items() if tensor is not None}
        return Batch(**{name: tensor.to(device) for name, tensor in present.items()})


@dataclass(frozen=True)
class ModelOutput:
    """The final hidden states, and the images that they were computed with."""

    hidden_BLD: Tensor
    visual: VisualFeatures
    images: VisibleImages


@dataclass(frozen=True)
class ImageConditions:
    """The image decoder's input for some images: context, and the maps of an earlier image.

    `maps` are [N, 1, D, s, s], finest first.
    """

    context_NKD: Tensor
    context_mask_NK: Tensor
    maps: tuple[Tensor, ...]
    visible_N1: Tensor

    def select(self, indices: Tensor) -> ImageConditions:
        """The conditions of some of the images."""
        return ImageConditions(
            self.context_NKD[indices],
            self.context_mask_NK[indices],
            tuple(map_N1Dss[indices] for map_N1Dss in self.maps),
            self.visible_N1[indices],
        )


class MMInterleaved(nn.Module):
    """The whole model, or the components that a worker needs."""

    image_decoder: ImageDecoder
    """In text workers its first stage alone, an `ImageTokenizer`."""

    def __init__(self, config: MMInterleavedConfig, components: Collection[str] = ALL) -> None:
        super().__init__()
        if unknown := set(components) - {*ALL, *TEXT}:
            raise ValueError(f"unknown components {sorted(unknown)}; known: {', '.join(ALL)}")
        self.config = config
        width = config.llm.hidden_size
        if "soi_token" in components:
            self.soi_token = nn.Parameter(torch.zeros(1, width))
        if "visual_tokenizer" in components:
            self.visual_tokenizer = VisualTokenizer(config)
        if "mm_decoder" in components:
            self.mm_decoder = LanguageModel(config)
        if "text_decoder" in components:
            self.text_decoder = TextHead(config)
        if config.llm.tie_word_embeddings and {"mm_decoder", "text_decoder"} <= set(components):
            self.text_decoder.head.weight = self.mm_decoder.embed_tokens.weight
        if "context_feat_proj" in components:
            self.context_feat_proj = nn.Linear(width, width)
        if "image_decoder" in components:
            # Imported here, so that only processes that generate images import diffusers.
            from model.image_decoder.image_decoder import ImageDecoder

            self.image_decoder = ImageDecoder(config)
        elif "image_decoder.perceiver_resampler" in components:
            self.add_module("image_decoder", ImageTokenizer(config.image_decoder.perceiver))

    def forward(
        self,
        batch: Batch,
        visual: VisualFeatures | None = None,
        positions_BL: Tensor | None = None,
        cache: Cache | None = None,
    ) -> ModelOutput:
        """Read interleaved text and images.

        `text_decoder` turns the hidden states into logits of the next tokens, `image_conditions`
        turns them into the input of `image_decoder`.

        Args:
            batch: sequences and images.
            visual: the images' features, if they are known already.
            positions_BL: of the tokens; None counts all tokens, padding included.
            cache: receives the keys and values of the tokens, for going on from here.
        """
        if visual is None:
            visual = self.visual_tokenizer(batch.pixels_N3SS)
        embeds_BLD = self.embed(batch.text_ids_BL, visual)
        images = self.visible_images(batch, visual)
        hidden_BLD = self.mm_decoder(
            embeds_BLD, images, batch.attention_mask_BL, positions_BL, cache
        )
        return ModelOutput(hidden_BLD, visual, images)

    def embed(self, text_ids_BL: Tensor, visual: VisualFeatures) -> Tensor:
        """Token embeddings, with the images' tokens in place of the placeholders: [B, L, D]."""
        special = self.config.special_tokens
        embeds_BLD: Tensor = self.mm_decoder.embed_tokens(text_ids_BL)
        tokens_MD = visual.tokens_NTD.flatten(0, 1).to(embeds_BLD.dtype)
        is_image_BL1 = (text_ids_BL == special.image_token_id).unsqueeze(-1)
        if int(is_image_BL1.sum()) != len(tokens_MD):
            raise ValueError(
                f"{int(is_image_BL1.sum())} placeholders for {len(visual)} images of "
                f"{self.config.num_img_token} tokens"
            )
        embeds_BLD = embeds_BLD.masked_scatter(is_image_BL1, tokens_MD)
        is_soi_BL1 = (text_ids_BL == special.soi_token_id).unsqueeze(-1)
        return embeds_BLD + is_soi_BL1 * self.soi_token

    def visible_images(self, batch: Batch, visual: VisualFeatures) -> VisibleImages:
        """The values of the language model's synchronizers, and which token sees which image."""
        features_NVD = torch.cat(
            [
                map_NDss.flatten(2).transpose(1, 2)
                for map_NDss in visual.maps
                if map_NDss.shape[-1] in self.config.spatial_shapes
            ],
            1,
        )
        features_BIVD = context.by_sequence(features_NVD, batch.num_images_B)
        visible_BLI = context.visible_images(
            batch.text_ids_BL, batch.num_images_B, self.config.special_tokens
        )
        return VisibleImages(self.mm_decoder.project_images(features_BIVD), visible_BLI)

    def image_contexts(self, hidden_BLD: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The context before each image, nearest first: [N, K, D], and its extent [N, K]."""
        context_NKD, mask_NK = context.image_contexts(
            hidden_BLD, batch.text_ids_BL, self.config.special_tokens, batch.bos_columns_N
        )
        return self.project_context(context_NKD), mask_NK

    def project_context(self, context_NKD: Tensor) -> Tensor:
        """Hidden states, nearest first, as the image decoder's perceiver reads them."""
        length, width = context_NKD.shape[1:]
        table_KD = sequence_table(width, length).to(context_NKD)
        projected_NKD: Tensor = self.context_feat_proj(context_NKD)
        return projected_NKD + table_KD

    def image_tokens(self, context_NKD: Tensor, context_mask_NK: Tensor | None = None) -> Tensor:
        """The condition of the image decoder: [N, T, D]."""
        return self.image_decoder.image_tokens(context_NKD, context_mask_NK)

    def previous_images(self, batch: Batch) -> Tensor:
        """For each image of the batch the one whose maps it reads, or -1: [N]."""
        return context.previous_images(
            batch.text_ids_BL,
            self.config.special_tokens,
            batch.bos_columns_N,
            batch.num_given_B if self.config.image_decoder.anchored else None,
        )

    def image_conditions(self, output: ModelOutput, batch: Batch) -> ImageConditions:
        """The image decoder's input for every image of the batch."""
        context_NKD, mask_NK = self.image_contexts(output.hidden_BLD, batch)
        previous_N = self.previous_images(batch)
        exists_N1 = (previous_N >= 0).unsqueeze(1)
        maps = tuple(
            (map_NDss[previous_N.clamp(min=0)] * exists_N1[..., None, None]).unsqueeze(1)
            for map_NDss in output.visual.maps
        )
        return ImageConditions(context_NKD, mask_NK, maps, exists_N1)
