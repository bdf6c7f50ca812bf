"""Where the tokens of a step lie in the paged cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from vllm.v1.attention.backend import (
    AttentionBackend,
    AttentionCGSupport,
    AttentionMetadata,
    AttentionMetadataBuilder,
    CommonAttentionMetadata,
)
from vllm.v1.kv_cache_interface import KVCacheLayout


@dataclass
class StepMetadata(AttentionMetadata):  # type: ignore[misc]
    """Paging of one step. R requests, T tokens, W blocks per request at most."""

    num_tokens: int
    query_start_loc: torch.Tensor  # [R + 1], first token of each request within the step
    seq_lens: torch.Tensor  # [R], tokens of each request, this step's included
    max_seq_len: int
    block_table: torch.Tensor  # [R, W]
    slot_mapping: torch.Tensor  # [T]


class StepMetadataBuilder(AttentionMetadataBuilder[StepMetadata]):  # type: ignore[misc]
    """Passes on what the runner already has."""

    _cudagraph_support = AttentionCGSupport.NEVER

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)

    def build(
        self,
        common_prefix_len: int,
        common_attn_metadata: CommonAttentionMetadata,
        fast_build: bool = False,
    ) -> StepMetadata:
        common = common_attn_metadata
        return StepMetadata(
            num_tokens=common.num_actual_tokens,
            query_start_loc=common.query_start_loc[: common.num_reqs + 1],
            seq_lens=common.seq_lens[: common.num_reqs],
            max_seq_len=common.max_seq_len,
            block_table=common.block_table_tensor[: common.num_reqs],
            slot_mapping=common.slot_mapping,
        )


class TokenCacheBackend(AttentionBackend):  # type: ignore[misc]
    """Storage without attention."""

    supported_dtypes = [torch.float16, torch.bfloat16, torch.float32]

    @staticmethod
    def get_name() -> str:
        return "TOKEN_CACHE"

    @staticmethod
    def get_impl_cls() -> type[Any]:
        raise TypeError("a token cache computes nothing")

    @staticmethod
    def get_builder_cls() -> type[StepMetadataBuilder]:
        return StepMetadataBuilder

    @classmethod
    def supported_kv_cache_layouts(cls) -> tuple[KVCacheLayout, ...]:
        """Those in which a layer's blocks are contiguous."""
        return (KVCacheLayout.LBHNC, KVCacheLayout.LBNHC)
