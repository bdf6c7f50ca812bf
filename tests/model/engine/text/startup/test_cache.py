"""The paged cache: what the plan promises, what the engine gives, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from model.checkpoint import store
from model.config.presets import preset
from model.engine.text.engine import VllmTextEngine
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.cache import (
    MIB,
    CacheTooSmall,
    check_cache,
    least_bytes,
    num_tokens,
)
from model.engine.text.startup.vllm import longest_sequence
from model.memory.plan import GIB, Assumptions, plan_memory

HALF = TextEngineOptions(Path("unused"), dtype="bfloat16")


def test_what_the_plan_promises_for_the_published_model_the_engine_can_hold() -> None:
    config, assumed = preset("13b"), Assumptions()
    plan = plan_memory(config, assumed).text
    for gpu_bytes in (40 * GIB, 80 * GIB):
        room = plan.cache_bytes(gpu_bytes, assumed.reserve_bytes)
        requests = plan.num_requests(gpu_bytes, assumed.reserve_bytes)
        # Requests share no block: each wastes a part of its last one.
        blocks = requests * -(-plan.tokens_per_request // HALF.block_size)
        assert num_tokens(room, HALF, config) > 0.97 * blocks * HALF.block_size
        check_cache(replace(HALF, kv_cache_bytes=room), config)


def test_a_cache_in_which_the_longest_request_does_not_fit_is_refused() -> None:
    config = preset("13b")
    small = replace(HALF, kv_cache_bytes=512 * MIB)
    with pytest.raises(CacheTooSmall, match="a cache of 512 MiB holds 576 tokens") as refused:
        check_cache(small, config)
    assert f"one request may have {longest_sequence(HALF, config)}" in str(refused.value)
    least = least_bytes(HALF, config)
    check_cache(replace(HALF, kv_cache_bytes=least), config)
    with pytest.raises(CacheTooSmall):
        check_cache(replace(HALF, kv_cache_bytes=least - 1), config)
    check_cache(replace(small, max_model_len=576), config)
    check_cache(replace(HALF, kv_cache_bytes=0), config)  # what a GPU has left


@pytest.mark.asyncio(loop_scope="session")
async def test_the_running_engine_has_the_blocks_that_are_counted(engine: VllmTextEngine) -> None:
    assert engine.options.kv_cache_bytes and engine._llm is not None
    blocks = engine._llm.vllm_config.cache_config.num_gpu_blocks
    size = engine.options.block_size
    config = store.load_config(engine.options.checkpoint)
    expected = num_tokens(engine.options.kv_cache_bytes, engine.options, config)
    assert (blocks - 1) * size == expected
