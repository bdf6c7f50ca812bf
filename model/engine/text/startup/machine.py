"""Settings of the text engine that depend on the machine: the type, and memory of a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from vllm.platforms import current_platform

from model.config.schema import MMInterleavedConfig
from model.engine.dtype import resolve_dtype
from model.engine.text.options import TextEngineOptions
from model.memory.estimate import image_bytes
from model.memory.plan import Assumptions, text_plan, weigh
from model.mm_interleaved import MMInterleaved

# Of the card's memory at most this share: the driver has the rest.
_MOST = 0.92
_CPU_CACHE_BYTES = 512 << 20
# The first compute capability with units for bfloat16.
_AMPERE = 80


def fit_to_machine(options: TextEngineOptions, config: MMInterleavedConfig) -> TextEngineOptions:
    """The options with all that is left to the machine filled in."""
    dtype: Any
    if current_platform.is_cpu():
        dtype = resolve_dtype(options.dtype, "cpu", lambda: False)
        return replace(
            options,
            dtype=dtype,
            kv_cache_bytes=options.kv_cache_bytes or _CPU_CACHE_BYTES,
            gpu_memory_utilization=options.gpu_memory_utilization or _MOST,
        )
    dtype = resolve_dtype(options.dtype, "cuda", _has_bfloat16)
    options = replace(options, dtype=dtype)
    if options.gpu_memory_utilization:
        return options
    total_bytes = int(current_platform.get_device_total_memory())
    return replace(
        options, gpu_memory_utilization=planned_utilization(options, config, total_bytes)
    )


def _has_bfloat16() -> bool:
    """Whether the card has units for bfloat16; asked of its driver, without using the card."""
    return bool(current_platform.has_device_capability(_AMPERE))


def planned_utilization(
    options: TextEngineOptions, config: MMInterleavedConfig, total_bytes: int
) -> float:
    """The share of a card that the engine takes beside an image worker on the same card.

    With a cache of a given size it is what the engine needs; otherwise all that the image worker
    does not need for as many images as it works on at a time.
    """
    dtype: torch.dtype = getattr(torch, options.dtype)
    assumed = Assumptions(
        dtype=dtype,
        step_tokens=options.max_num_batched_tokens,
        step_requests=options.max_num_seqs,
    )
    with torch.device("meta"):
        components = weigh(MMInterleaved(config), dtype)
    if options.kv_cache_bytes:
        fixed = text_plan(config, assumed, components, reading=0).fixed_bytes(assumed.reserve_bytes)
        return min(_MOST, (fixed + options.kv_cache_bytes) / total_bytes)
    if not options.image_concurrency:
        return _MOST
    weights = sum(component.num_bytes for component in components if component.image)
    images = options.image_concurrency * image_bytes(config, dtype.itemsize)
    return min(_MOST, 1 - (weights + images + assumed.reserve_bytes) / total_bytes)
