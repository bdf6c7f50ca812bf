"""What one token occupies in the text engine's paged cache."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from model.config.schema import MMInterleavedConfig

# Numbers of a token's class; only the first is used, eight keep the rows aligned.
CLASS_WIDTH = 8


@dataclass(frozen=True)
class TokenBytes:
    """Bytes of one token, by what they hold. All but keys and values are the synchronizer's."""

    keys_values: int
    features: int
    token_class: int
    hidden_state: int

    @classmethod
    def of(cls, config: MMInterleavedConfig, dtype: torch.dtype) -> TokenBytes:
        """The cache of a model in a format."""
        llm, size = config.llm, dtype.itemsize
        return cls(
            keys_values=2 * llm.num_hidden_layers * llm.kv_heads * llm.head_width * size,
            features=config.vectors_per_token * config.image_embed_dim * size,
            token_class=CLASS_WIDTH * size,
            hidden_state=llm.hidden_size * size,
        )

    @property
    def total(self) -> int:
        return self.keys_values + self.features + self.token_class + self.hidden_state


def describe_cache(config: MMInterleavedConfig, dtype: str) -> str:
    """What a token and an image cost, in one line for the log."""
    token = TokenBytes.of(config, getattr(torch, dtype))
    states = token.hidden_state + token.token_class
    tokens = config.num_img_token
    return (
        f"cache of a token: {token.keys_values} bytes of keys and values; the synchronizer adds "
        f"{token.features} ({token.features / token.keys_values:.1%}) for feature rows, hidden "
        f"states and class {states} ({states / token.keys_values:.1%}); an image of {tokens} "
        f"tokens takes {tokens * token.total} bytes"
    )
