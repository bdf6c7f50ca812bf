"""Images for vLLM: pixels in, a fixed number of placeholders out.

The text engine passes finished prompts and pixels to vLLM, and uses only the dummy inputs for
memory profiling of this. The rest serves plain vLLM calls: prompts as token ids with one image
token per image, and images as [3, S, S] in [0, 1].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from transformers import BatchFeature
from vllm.multimodal.inputs import MultiModalFieldConfig, MultiModalKwargsItems
from vllm.multimodal.parse import MultiModalDataItems
from vllm.multimodal.processing import (
    BaseDummyInputsBuilder,
    BaseMultiModalProcessor,
    BaseProcessingInfo,
    ProcessorInputs,
    PromptReplacement,
    PromptUpdate,
)

from model.config.schema import MMInterleavedConfig
from model.visual_tokenizer.visual_tokenizer import VisualFeatures

PIXELS = "pixel_values"


def image_fields() -> dict[str, MultiModalFieldConfig]:
    """The one field of an image."""
    return {PIXELS: MultiModalFieldConfig.batched("image")}


class ImageProcessingInfo(BaseProcessingInfo):  # type: ignore[misc]
    @property
    def config(self) -> MMInterleavedConfig:
        return self.ctx.get_hf_config().interleaved

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        return {"image": self.config.max_images}

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        return {"image": self.config.num_img_token}


class ImageDummyInputs(BaseDummyInputsBuilder[ImageProcessingInfo]):  # type: ignore[misc]
    """Grey images, for measuring memory."""

    def get_dummy_text(self, mm_counts: Mapping[str, int]) -> str:
        """Empty: prompts are ids; see `ImageProcessor.get_dummy_inputs`."""
        return ""

    def get_dummy_mm_data(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> dict[str, Any]:
        side = self.info.config.vision.image_size
        return {"image": [torch.full((3, side, side), 0.5)] * mm_counts.get("image", 0)}


class ImageProcessor(BaseMultiModalProcessor[ImageProcessingInfo]):  # type: ignore[misc]
    """Expands each image token to the image's placeholders."""

    requires_tokenizer = False

    def get_dummy_inputs(
        self, seq_len: int, mm_counts: Mapping[str, int], mm_options: Mapping[str, Any]
    ) -> ProcessorInputs:
        """A prompt of images only."""
        data = self.dummy_inputs.get_dummy_mm_data(seq_len, mm_counts, mm_options)
        special = self.info.config.special_tokens
        prompt = [special.soi_token_id, special.image_token_id] * mm_counts.get("image", 0)
        return ProcessorInputs(
            prompt=prompt, mm_data_items=self.info.parse_mm_data(data, validate=False)
        )

    def _call_hf_processor(
        self, hf_data: Mapping[str, object], hf_kwargs: Mapping[str, object]
    ) -> BatchFeature:
        """Stack the images; they come prepared."""
        images: Any = hf_data["images"]
        return BatchFeature({PIXELS: torch.stack([torch.as_tensor(image) for image in images])})

    def _get_mm_fields_config(
        self, hf_inputs: BatchFeature, hf_processor_mm_kwargs: Mapping[str, object]
    ) -> Mapping[str, MultiModalFieldConfig]:
        return image_fields()

    def _get_prompt_updates(
        self,
        mm_items: MultiModalDataItems,
        hf_processor_mm_kwargs: Mapping[str, object],
        out_mm_kwargs: MultiModalKwargsItems,
    ) -> Sequence[PromptUpdate]:
        config = self.info.config
        image = config.special_tokens.image_token_id
        return [
            PromptReplacement(
                modality="image", target=[image], replacement=[image] * config.num_img_token
            )
        ]


def image_rows(visual: VisualFeatures, config: MMInterleavedConfig) -> torch.Tensor:
    """Pack images into the rows of their placeholders, [N, T, D + vectors_per_token * C].

    Vectors are divided by their root mean square here, which all synchronizer layers do first. The
    weight of each layer's norm is folded into its projection.
    """
    by_side = {map_NCss.shape[-1]: map_NCss for map_NCss in visual.maps}
    vectors_NVC = torch.cat(
        [by_side[side].flatten(2).transpose(1, 2) for side in config.spatial_shapes], dim=1
    )
    square_NV1 = vectors_NVC.float().square().mean(-1, keepdim=True)
    vectors_NVC = vectors_NVC.float() * (square_NV1 + config.llm.rms_norm_eps).rsqrt()
    tokens, packed = config.num_img_token, config.vectors_per_token
    vectors_NVC = F.pad(vectors_NVC, (0, 0, 0, tokens * packed - vectors_NVC.shape[1]))
    rows_NTX = vectors_NVC.reshape(len(vectors_NVC), tokens, -1)
    return torch.cat((visual.tokens_NTD, rows_NTX.to(visual.tokens_NTD.dtype)), dim=-1)
