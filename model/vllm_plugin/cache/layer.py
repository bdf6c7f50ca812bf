"""Layers that only hold cache: facts about tokens, paged along with keys and values.

They live in the same KV cache group as self-attention, so that prefix caching, preemption and
eviction treat an image's features exactly as they treat its keys and values, and no table by
request is needed. A row belongs to one token and depends on that token alone (or, for hidden
states, on its prefix): rows can therefore be shared by requests that share the prefix.
"""

from __future__ import annotations

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec

from model.vllm_plugin.cache.metadata import StepMetadata, TokenCacheBackend


class TokenCacheSpec(FullAttentionSpec):  # type: ignore[misc]
    """One vector per token, no values beside it. Managed as full attention is."""


class TokenCacheLayer(nn.Module, AttentionLayerBase):  # type: ignore[misc]
    """A cache of `width` numbers per token, without any computation."""

    def __init__(self, vllm_config: VllmConfig, name: str, width: int) -> None:
        """Announce the layer to the engine under `name`, which must contain one integer."""
        super().__init__()
        self.name = name
        self.width = width
        self.dtype = vllm_config.model_config.dtype
        self.kv_cache = torch.empty(0)
        vllm_config.compilation_config.static_forward_context[name] = self

    def get_attn_backend(self) -> type[AttentionBackend]:
        """The backend that hands the step's metadata through."""
        return TokenCacheBackend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec:
        """Shape of the cache: a single head of `width`, and no second half."""
        return TokenCacheSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=1,
            head_size=self.width,
            head_size_v=0,
            dtype=self.dtype,
            max_tp_shards=1,
        )

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        """Take the paged memory, as rows of one token each."""
        if not kv_cache.is_contiguous():
            raise ValueError("token caches need a layout that keeps a layer's blocks together")
        self.kv_cache = kv_cache

    @property
    def rows(self) -> torch.Tensor:
        """The cache as [number of slots, width]; empty before memory is bound."""
        return self.kv_cache.view(-1, self.width)

    def metadata(self) -> StepMetadata | None:
        """The running step's metadata, or None while the engine measures memory."""
        context = get_forward_context().attn_metadata
        return context[self.name] if isinstance(context, dict) and self.kv_cache.numel() else None

    def write(self, metadata: StepMetadata, values_TW: torch.Tensor) -> None:
        """Store one row for each of the step's tokens."""
        slots_T = metadata.slot_mapping[: metadata.num_tokens]
        self.rows.index_copy_(0, slots_T, values_TW[: metadata.num_tokens].to(self.dtype))
