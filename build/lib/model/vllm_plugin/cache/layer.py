"""Layers that only hold cache: facts about tokens, paged like keys and values.

They share the KV cache group of self-attention: prefix caching, preemption and eviction treat
features like keys and values, and no table by request is needed. A row depends on its token alone
(hidden states: on its prefix), so requests with the same prefix can share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.forward_context import get_forward_context
from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
from vllm.v1.attention.backend import AttentionBackend
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheSpec

from model.vllm_plugin.cache.metadata import StepMetadata, TokenCacheBackend


@dataclass(frozen=True)
class CacheNames:
    """Names of a model's three cache-only layers.

    vLLM wants exactly one integer in a layer's name, unlike that of any other layer: they are
    numbered after the language model's layers.
    """

    features: str
    classes: str
    hidden_states: str

    @classmethod
    def after(cls, num_hidden_layers: int) -> CacheNames:
        first = num_hidden_layers
        return cls(
            f"image_features.{first}", f"token_class.{first + 1}", f"hidden_states.{first + 2}"
        )


class TokenCacheSpec(FullAttentionSpec):  # type: ignore[misc]
    """One vector per token, without a second half; vLLM manages it like full attention."""


class TokenCacheLayer(nn.Module, AttentionLayerBase):  # type: ignore[misc]
    """A cache of `width` numbers per token, without computation."""

    def __init__(self, vllm_config: VllmConfig, name: str, width: int) -> None:
        """Register the layer with the engine under `name`; see `CacheNames`."""
        super().__init__()
        self.name = name
        self.width = width
        self.dtype = vllm_config.model_config.dtype
        self.kv_cache = torch.empty(0)
        vllm_config.compilation_config.static_forward_context[name] = self

    def get_attn_backend(self) -> type[AttentionBackend]:
        return TokenCacheBackend

    def get_kv_cache_spec(self, vllm_config: VllmConfig) -> KVCacheSpec:
        """A single head of `width` numbers, and no second half."""
        return TokenCacheSpec(
            block_size=vllm_config.cache_config.block_size,
            num_kv_heads=1,
            head_size=self.width,
            head_size_v=0,
            dtype=self.dtype,
            max_tp_shards=1,
        )

    def bind_kv_cache(self, kv_cache: torch.Tensor) -> None:
        """Use this paged memory.

        Raises:
            ValueError: a layer's blocks are not contiguous.
        """
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
