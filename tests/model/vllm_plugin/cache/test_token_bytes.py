"""What the start-up line and `mmi plan` say about a token agrees with what the cache layers ask."""

from __future__ import annotations

import dataclasses

import torch

from model.config.presets import preset
from model.memory.plan import Assumptions, plan_memory
from model.synchronizer.geometry import Geometry
from model.vllm_plugin.cache.token_bytes import TokenBytes, describe_cache


def test_published_model_in_bfloat16() -> None:
    config = preset("13b")
    token = TokenBytes.of(config, torch.bfloat16)
    assert token.keys_values == 2 * 40 * 5120 * 2
    assert token.features == Geometry.of_text(config).token_width * 2 == 21 * 1024 * 2
    assert (token.hidden_state, token.token_class) == (5120 * 2, 16)
    line = describe_cache(config, "bfloat16")
    assert "819200 bytes" in line and "43008 (5.2%)" in line and "10256 (1.3%)" in line
    assert f"an image of 64 tokens takes {64 * token.total} bytes" in line


def test_the_plan_counts_the_same_bytes() -> None:
    config = preset("tiny")
    made = plan_memory(config, dataclasses.replace(Assumptions(), dtype=torch.float32))
    assert made.text.token == TokenBytes.of(config, torch.float32)
