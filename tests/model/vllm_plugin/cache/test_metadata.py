from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from model.vllm_plugin.cache.metadata import StepMetadata, StepMetadataBuilder, TokenCacheBackend


def common(num_requests: int, num_padding: int) -> SimpleNamespace:
    """What the runner has of a step of two tokens for each request, padded to fixed sizes."""
    padded = num_requests + num_padding
    return SimpleNamespace(
        num_reqs=num_requests,
        num_actual_tokens=2 * num_requests,
        query_start_loc=torch.arange(padded + 1, dtype=torch.int32) * 2,
        seq_lens=torch.arange(1, padded + 1, dtype=torch.int32),
        max_seq_len=num_requests,
        block_table_tensor=torch.arange(padded * 3, dtype=torch.int32).view(padded, 3),
        slot_mapping=torch.arange(2 * padded),
    )


def build(metadata: SimpleNamespace) -> StepMetadata:
    return object.__new__(StepMetadataBuilder).build(0, metadata)


@pytest.mark.parametrize("num_padding", [0, 3])
def test_padding_behind_the_requests_is_left_out(num_padding: int) -> None:
    step = build(common(2, num_padding))
    assert step.num_tokens == 4 and step.max_seq_len == 2
    assert step.query_start_loc.tolist() == [0, 2, 4]
    assert step.seq_lens.tolist() == [1, 2]
    assert step.block_table.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert step.slot_mapping[: step.num_tokens].tolist() == [0, 1, 2, 3]


def test_the_runners_memory_is_passed_on_and_not_copied() -> None:
    given = common(2, 1)
    step = build(given)
    given.block_table_tensor[0, 0] = 77
    assert step.block_table[0, 0] == 77


def test_a_token_cache_is_storage_that_never_computes() -> None:
    assert TokenCacheBackend.get_builder_cls() is StepMetadataBuilder
    with pytest.raises(TypeError, match="computes nothing"):
        TokenCacheBackend.get_impl_cls()
