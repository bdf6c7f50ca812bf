"""The first stage of the image decoder: context to image tokens. It needs no diffusers.

Legend: B images, L context length, T image tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from model.config.schema import PerceiverConfig
from model.visual_tokenizer.perceiver import PerceiverResampler


class ImageTokenizer(nn.Module):
    """The perceiver of the image decoder. Text workers hold this stage alone."""

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__()
        self.perceiver_resampler = PerceiverResampler(config)

    def image_tokens(
        self, context_features_BLD: Tensor, attention_mask_BL: Tensor | None = None
    ) -> Tensor:
        """The condition of the U-Net, [B, T, D], from the context before each image."""
        return self.perceiver_resampler(context_features_BLD, attention_mask_BL)
