"""The checkpoint to ship: half precision where serving allows it."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from model.checkpoint import store
from model.mm_interleaved import MMInterleaved


def save_half(model: MMInterleaved, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write a checkpoint in float16, save for what is served in float32; loading converts it."""
    halved = copy.deepcopy(model)
    for name, tensor in [*halved.named_parameters(), *halved.named_buffers()]:
        tensor.data = tensor.data.to(store.serving_dtype(name, tensor.dtype, torch.float16))
    store.save_model(halved, tokenizer, directory)
