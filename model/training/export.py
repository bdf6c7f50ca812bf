"""The checkpoint to ship: half precision where serving allows it."""

from __future__ import annotations

import copy

import torch

from model.checkpoint import load
from model.mm_interleaved import MMInterleaved


def halved(model: MMInterleaved) -> MMInterleaved:
    """A copy in float16, save for what is served in float32; loading converts it."""
    copied = copy.deepcopy(model)
    for name, tensor in [*copied.named_parameters(), *copied.named_buffers()]:
        tensor.data = tensor.data.to(load.serving_dtype(name, tensor.dtype, torch.float16))
    return copied
