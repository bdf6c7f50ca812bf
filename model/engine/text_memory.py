"""What a token and an image cost in the paged cache, in words."""

from __future__ import annotations

import torch

from model.config import MMInterleavedConfig
from model.vllm_plugin.plan import CLASS_WIDTH


def describe_cache(config: MMInterleavedConfig, dtype: str) -> str:
    """One line for the log at start-up."""
    llm, size = config.llm, getattr(torch, dtype).itemsize
    keys_values = 2 * llm.num_hidden_layers * llm.kv_heads * llm.head_width * size
    features = config.vectors_per_token * config.image_embed_dim * size
    states = (llm.hidden_size + CLASS_WIDTH) * size
    tokens = config.num_img_token
    return (
        f"cache of a token: {keys_values} bytes of keys and values; the synchronizer adds "
        f"{features} ({features / keys_values:.1%}) for feature rows, hidden states and class "
        f"{states} ({states / keys_values:.1%}); an image of {tokens} tokens takes "
        f"{tokens * (keys_values + features + states)} bytes"
    )
