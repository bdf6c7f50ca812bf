"""What a token and an image cost in the paged cache, in words."""

from __future__ import annotations

import torch

from model.config.schema import MMInterleavedConfig
from model.text_decoder.token_bytes import TokenBytes


def describe_cache(config: MMInterleavedConfig, dtype: str) -> str:
    """One line for the log at start-up."""
    token = TokenBytes.of(config, getattr(torch, dtype))
    states = token.hidden_state + token.token_class
    tokens = config.num_img_token
    return (
        f"cache of a token: {token.keys_values} bytes of keys and values; the synchronizer adds "
        f"{token.features} ({token.features / token.keys_values:.1%}) for feature rows, hidden "
        f"states and class {states} ({states / token.keys_values:.1%}); an image of {tokens} "
        f"tokens takes {tokens * token.total} bytes"
    )
