"""MM-Interleaved: the composition.

Legend: B sequences, L tokens, I images of a sequence, N images of the whole batch, T tokens of an
image, K context length, S side of an image, V vocabulary, D width.

An image enters the language model twice: condensed into T tokens among the text, and as feature
maps that some layers look at (`FeatureSynchronizer`). An image is drawn from the hidden states
before it, and from the feature maps of the image before it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.config.schema import MMInterleavedConfig
from model.positions import sequence_table
from model.text_decoder import context
from model.text_decoder.text_decoder import LanguageModel, TextHead, VisibleImages
from model.visual_tokenizer.perceiver import PerceiverResampler
from model.visual_tokenizer.visual_tokenizer import VisualFeatures, VisualTokenizer

if TYPE_CHECKING:
    from model.image_decoder.image_decoder import ImageDecoder, TrainingNoise

ALL = (
    "soi_token",
    "visual_tokenizer",
    "mm_decoder",
    "text_decoder",
    "image_decoder",
    "context_feat_proj",
)
# What text workers and image workers need.
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
    """

    text_ids_BL: Tensor
    pixels_N3SS: Tensor
    num_images_B: Tensor
    attention_mask_BL: Tensor | None = None
    bos_columns_N: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        mask_BL, columns_N = self.attention_mask_BL, self.bos_columns_N
        return Batch(
            self.text_ids_BL.to(device),
            self.pixels_N3SS.to(device),
            self.num_images_B.to(device),
            None if mask_BL is None else mask_BL.to(device),
            None if columns_N is None else columns_N.to(device),
        )


@dataclass(frozen=True)
class Output:
    """What the model makes of a batch."""

    hidden_BLD: Tensor
    logits_BLV: Tensor
    visual: VisualFeatures
    context_NKD: Tensor
    context_mask_NK: Tensor
    image_tokens_NTD: Tensor


@dataclass(frozen=True)
class ImageConditions:
    """What the image decoder reads for some images: context, and the preceding image's maps."""

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


@dataclass(frozen=True)
class Losses:
    """Terms of the training loss; `total` is what is minimised."""

    total: Tensor
    text: Tensor
    image: Tensor


class MMInterleaved(nn.Module):
    """The whole model, or the components that a worker needs."""

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
            self.image_decoder = _image_decoder(config)
        elif "image_decoder.perceiver_resampler" in components:
            perceiver = PerceiverResampler(config.image_decoder.perceiver)
            self.image_decoder = cast(
                "ImageDecoder", nn.ModuleDict({"perceiver_resampler": perceiver})
            )

    def forward(self, batch: Batch) -> Output:
        """From text and images to logits of the next tokens, and to conditions of the images."""
        visual, hidden_BLD = self.read(batch)
        logits_BLV = self.text_decoder(hidden_BLD)
        context_NKD, context_mask_NK = self.image_contexts(hidden_BLD, batch)
        image_tokens_NTD = self.image_tokens(context_NKD, context_mask_NK)
        return Output(
            hidden_BLD, logits_BLV, visual, context_NKD, context_mask_NK, image_tokens_NTD
        )

    def read(
        self, batch: Batch, visual: VisualFeatures | None = None
    ) -> tuple[VisualFeatures, Tensor]:
        """The images' features (unless given), and the final hidden states [B, L, D]."""
        if visual is None:
            visual = self.visual_tokenizer(batch.pixels_N3SS)
        embeds_BLD = self.embed(batch.text_ids_BL, visual)
        images = self.visible_images(batch, visual)
        return visual, self.mm_decoder(embeds_BLD, images, batch.attention_mask_BL)

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
        """What the language model's synchronizers read, and which token sees what of it."""
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
        """What comes before each image, nearest first: [N, K, D], and its extent [N, K]."""
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
        tokens_NTD: Tensor = self.image_decoder.perceiver_resampler(context_NKD, context_mask_NK)
        return tokens_NTD

    def image_conditions(
        self, hidden_BLD: Tensor, visual: VisualFeatures, batch: Batch
    ) -> ImageConditions:
        """What the image decoder reads for every image of the batch."""
        context_NKD, mask_NK = self.image_contexts(hidden_BLD, batch)
        previous_N = context.previous_images(
            batch.text_ids_BL, self.config.special_tokens, batch.bos_columns_N
        )
        exists_N1 = (previous_N >= 0).unsqueeze(1)
        maps = tuple(
            (map_NDss[previous_N.clamp(min=0)] * exists_N1[..., None, None]).unsqueeze(1)
            for map_NDss in visual.maps
        )
        return ImageConditions(context_NKD, mask_NK, maps, exists_N1)

    def training_loss(
        self,
        batch: Batch,
        targets_N3SS: Tensor,
        labels_BL: Tensor | None = None,
        noise: TrainingNoise | None = None,
        image_loss_mask_N: Tensor | None = None,
        image_weight: float = 10.0,
    ) -> Losses:
        """Next-token loss plus the image decoder's denoising loss.

        Args:
            batch: sequences and images; `bos_columns_N` keeps the documents of a row apart.
            targets_N3SS: the same images at the image decoder's size, in [0, 1].
            labels_BL: targets of tokens 1, 2, ... [B, L - 1]; by default of
                `context.training_labels`.
            noise: the image decoder's random numbers; drawn if None.
            image_loss_mask_N: which images count.
            image_weight: weight of the denoising loss.
        """
        visual, hidden_BLD = self.read(batch)
        text_loss = self.text_loss(hidden_BLD, batch, labels_BL)
        conditions = self.image_conditions(hidden_BLD, visual, batch)
        image_loss = self.image_decoder(
            targets_N3SS,
            conditions.context_NKD,
            conditions.context_mask_NK,
            conditions.maps,
            conditions.visible_N1,
            noise=noise,
            image_loss_mask_B=image_loss_mask_N,
        )
        return Losses(text_loss + image_weight * image_loss, text_loss, image_loss)

    def text_loss(
        self,
        hidden_BLD: Tensor,
        batch: Batch,
        labels_BL: Tensor | None = None,
        weights_BL: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the tokens that are to be learned, by weights if given."""
        if labels_BL is None:
            mask_BL = batch.attention_mask_BL
            labels_BL = context.training_labels(
                batch.text_ids_BL,
                torch.ones_like(batch.text_ids_BL) if mask_BL is None else mask_BL,
                self.config.special_tokens,
            )
        is_learned_BL = labels_BL != context.IGNORED
        logits_MV = self.text_decoder(hidden_BLD[:, :-1][is_learned_BL])
        if weights_BL is None:
            return F.cross_entropy(logits_MV, labels_BL[is_learned_BL])
        losses_M = F.cross_entropy(logits_MV, labels_BL[is_learned_BL], reduction="none")
        weights_M = weights_BL[is_learned_BL]
        return (losses_M * weights_M).sum() / weights_M.sum()


PRETRAINED = ("language", "vision")


def freeze_pretrained(model: MMInterleaved, parts: Collection[str] = PRETRAINED) -> None:
    """Freeze what the published training froze: language model, ViT, autoencoder, tables.

    Args:
        model: the model.
        parts: which of language model and ViT are left as they are; the rest always is.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_part_of(name) not in {*parts, "fixed"})


def _part_of(name: str) -> str:
    """The pre-trained part that a parameter belongs to; empty for what is always learned."""
    vit = "visual_tokenizer.encoder.vision_model."
    if name.endswith(("pos_embed", ".mmfs.ignore_token")):
        return "fixed"
    if name.startswith("image_decoder.decoder.vae."):
        return "fixed"
    if name.startswith("mm_decoder."):
        return "" if "llama_cross_attn" in name else "language"
    if name.startswith(vit):
        return "" if name.removeprefix(vit).startswith("adapter") else "vision"
    return "language" if name.startswith("text_decoder.head.") else ""


def _image_decoder(config: MMInterleavedConfig) -> ImageDecoder:
    """The image decoder; only processes that draw pay for importing diffusers."""
    from model.image_decoder.image_decoder import ImageDecoder

    return ImageDecoder(config)
