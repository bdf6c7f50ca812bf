"""Taking a synchronizer's voice from a trained model, to see what the model hears through it."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import nn

from model.mm_interleaved import MMInterleaved
from model.synchronizer.unet_synchronizer import SynchronizerBlock
from model.text_decoder.text_decoder import ImageAttention

SYNCHRONIZERS = ("text", "decoder")


@torch.no_grad()
def silence(model: MMInterleaved, synchronizers: Collection[str]) -> None:
    """Let some of `SYNCHRONIZERS` add nothing: gates of 0, last convolutions of 0."""
    for module in model.modules():
        if isinstance(module, ImageAttention) and "text" in synchronizers:
            module.gate.zero_()
        if isinstance(module, SynchronizerBlock) and "decoder" in synchronizers:
            for parameter in module.conv.parameters():
                nn.init.zeros_(parameter)
