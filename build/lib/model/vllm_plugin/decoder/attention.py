"""Self-attention for head widths that the attention kernels do not know."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig
from vllm.config import CacheConfig
from vllm.distributed import get_tensor_model_parallel_world_size
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.models.llama import LlamaAttention
from vllm.platforms import current_platform

_MULTIPLE = 8


def kernel_head_width(width: int) -> int:
    """The narrowest supported head of at least `width` numbers."""
    if not current_platform.is_cpu():
        return -(-width // _MULTIPLE) * _MULTIPLE
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    sizes = sorted(CPUAttentionBackend.get_supported_head_sizes())
    fitting: list[int] = [size for size in sizes if size >= width]
    if not fitting:
        raise ValueError(f"attention heads of width {width} are not supported")
    return fitting[0]


def attention_class(head_width: int) -> type[nn.Module]:
    """`LlamaAttention` where vLLM's kernels support the width, else `PaddedAttention`."""
    if kernel_head_width(head_width) == head_width:
        return LlamaAttention
    return PaddedAttention


class PaddedAttention(nn.Module):
    """Llama's attention with heads padded with zeros to a supported width.

    Zeros add nothing to scores, which are scaled by the true width; the padding of the output is
    cut off.
    """

    def __init__(
        self,
        config: LlamaConfig,
        hidden_size: int,
        num_heads: int,
        num_kv_heads: int,
        cache_config: CacheConfig | None = None,
        prefix: str = "",
        quant_config: Any = None,
        max_position_embeddings: int = 2048,
        **_: Any,
    ) -> None:
        super().__init__()
        ranks = get_tensor_model_parallel_world_size()
        self.num_heads, self.num_kv_heads = num_heads // ranks, max(1, num_kv_heads // ranks)
        self.head_dim: int = config.head_dim
        self.padded_dim = kernel_head_width(self.head_dim)
        self.qkv_proj = QKVParallelLinear(
            hidden_size,
            self.head_dim,
            num_heads,
            num_kv_heads,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.qkv_proj",
        )
        self.o_proj = RowParallelLinear(
            num_heads * self.head_dim,
            hidden_size,
            bias=False,
            quant_config=quant_config,
            prefix=f"{prefix}.o_proj",
        )
        self.rotary_emb = get_rope(
            self.head_dim,
            max_position=max_position_embeddings,
            rope_parameters=config.rope_parameters,
            is_neox_style=True,
        )
        self.attn = Attention(
            self.num_heads,
            self.padded_dim,
            self.head_dim**-0.5,
            num_kv_heads=self.num_kv_heads,
            cache_config=cache_config,
            quant_config=quant_config,
            prefix=f"{prefix}.attn",
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Attend in the padded width, [T, D]."""
        qkv_TX, _ = self.qkv_proj(hidden_states)
        q_size, kv_size = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        q_TX, k_TX, v_TX = qkv_TX.split([q_size, kv_size, kv_size], dim=-1)
        q_TX, k_TX = self.rotary_emb(positions, q_TX, k_TX)
        attended_TX = self.attn(self._pad(q_TX), self._pad(k_TX), self._pad(v_TX))
        heads_THd = attended_TX.view(-1, self.num_heads, self.padded_dim)[..., : self.head_dim]
        output_TD, _ = self.o_proj(heads_THd.reshape(-1, q_size))
        return output_TD

    def _pad(self, x_TX: torch.Tensor) -> torch.Tensor:
        x_THd = x_TX.reshape(len(x_TX), -1, self.head_dim)
        return F.pad(x_THd, (0, self.padded_dim - self.head_dim)).flatten(1)
