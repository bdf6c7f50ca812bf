from __future__ import annotations

import pytest
from vllm.model_executor.models.llama import LlamaAttention
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

from model.vllm_plugin.decoder.attention import (
    PaddedAttention,
    attention_class,
    kernel_head_width,
)

SIZES = sorted(CPUAttentionBackend.get_supported_head_sizes())


def test_supported_heads_run_unpadded() -> None:
    assert all(kernel_head_width(size) == size for size in SIZES)
    assert attention_class(SIZES[0]) is LlamaAttention


def test_other_heads_are_padded_to_the_next_width() -> None:
    assert kernel_head_width(SIZES[0] - 1) == SIZES[0]
    assert attention_class(SIZES[0] - 1) is PaddedAttention
    with pytest.raises(ValueError, match=f"width {SIZES[-1] + 1}"):
        kernel_head_width(SIZES[-1] + 1)
