"""Llama layers, some of them with a synchronizer."""

from __future__ import annotations

from typing import Any

import torch
from vllm.config import VllmConfig
from vllm.model_executor.models.llama import LlamaDecoderLayer
from vllm.model_executor.models.utils import extract_layer_index

from model.synchronizer.geometry import Geometry
from model.vllm_plugin.cache.layer import CacheNames
from model.vllm_plugin.decoder.attention import attention_class
from model.vllm_plugin.decoder.synchronizer import PagedSynchronizer


class InterleavedDecoderLayer(LlamaDecoderLayer):  # type: ignore[misc]
    """Self-attention, then the synchronizer where the layer has one, then the MLP."""

    def __init__(self, vllm_config: VllmConfig, prefix: str = "", **kwargs: Any) -> None:
        config = vllm_config.model_config.hf_config.interleaved
        attention = attention_class(config.llm.head_width)
        super().__init__(vllm_config, prefix=prefix, attn_layer_type=attention, **kwargs)
        self.llama_cross_attn = None
        if extract_layer_index(prefix) in config.synchronizer_layers:
            synchronizer = config.text_synchronizer
            self.llama_cross_attn = PagedSynchronizer(
                Geometry.of_text(config),
                config.llm.hidden_size,
                int((synchronizer.attn_dim or config.llm.hidden_size) * synchronizer.ratio),
                config.llm.rms_norm_eps,
                CacheNames.after(config.llm.num_hidden_layers).features,
            )

    def forward(
        self, positions: torch.Tensor, hidden_states: torch.Tensor, residual: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Llama's, with the synchronizer's output added between attention and MLP."""
        if residual is None:
            residual = hidden_states
            hidden_states = self.input_layernorm(hidden_states)
        else:
            hidden_states, residual = self.input_layernorm(hidden_states, residual)
        hidden_states = self.self_attn(positions=positions, hidden_states=hidden_states)
        if self.llama_cross_attn is not None:
            hidden_states, residual = self.llama_cross_attn(hidden_states, residual)
        hidden_states, residual = self.post_attention_layernorm(hidden_states, residual)
        return self.mlp(hidden_states), residual
