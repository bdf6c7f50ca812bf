"""The size of the text engine's paged cache: what it holds, and what it has to hold."""

from __future__ import annotations

import torch

from model.config.schema import MMInterleavedConfig
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.vllm import longest_sequence
from model.vllm_plugin.cache.token_bytes import TokenBytes

MIB = 2**20


class CacheTooSmall(ValueError):
    """The cache cannot hold one request of the greatest length."""


def block_bytes(options: TextEngineOptions, config: MMInterleavedConfig) -> int:
    """Bytes of one block of tokens, over all layers."""
    dtype: torch.dtype = getattr(torch, options.dtype)
    return options.block_size * TokenBytes.of(config, dtype).total


def num_tokens(num_bytes: int, options: TextEngineOptions, config: MMInterleavedConfig) -> int:
    """Tokens that requests can have in a cache of so many bytes; vLLM keeps one block empty."""
    blocks = num_bytes // block_bytes(options, config) - 1
    return max(0, blocks) * options.block_size


def least_bytes(options: TextEngineOptions, config: MMInterleavedConfig) -> int:
    """Bytes in which one request of the greatest length fits."""
    blocks = -(-longest_sequence(options, config) // options.block_size) + 1
    return blocks * block_bytes(options, config)


def check_cache(options: TextEngineOptions, config: MMInterleavedConfig) -> None:
    """Check the size of the cache, if options that fit the machine give one.

    Raises:
        CacheTooSmall: one request of the greatest length does not fit.
    """
    least, given = least_bytes(options, config), options.kv_cache_bytes
    if given and given < least:
        raise CacheTooSmall(
            f"a cache of {given // MIB} MiB holds {num_tokens(given, options, config)} tokens, but "
            f"one request may have {longest_sequence(options, config)}: that takes "
            f"{-(-least // MIB)} MiB (MMI_KV_CACHE_MIB), or shorter requests (MMI_MAX_MODEL_LEN)"
        )
