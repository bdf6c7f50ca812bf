"""Starts vLLM for a checkpoint, and counts what it does."""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from typing import Any

from vllm import AsyncEngineArgs
from vllm.config import KVTransferConfig, VllmConfig
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.metrics.loggers import StatLoggerBase

from model.compiler import prepare_torch_compile
from model.config.schema import MMInterleavedConfig
from model.engine.text.options import TextEngineOptions
from model.engine.text.startup.machine import fit_to_machine
from model.engine.text.startup.ranks import bind_threads, rank_arguments
from model.vllm_plugin.config import write_view


def longest_sequence(options: TextEngineOptions, config: MMInterleavedConfig) -> int:
    """Tokens of the longest sequence that the engine takes."""
    return options.max_model_len or min(config.seq_len, config.llm.max_position_embeddings)


def engine_arguments(options: TextEngineOptions, config: MMInterleavedConfig) -> AsyncEngineArgs:
    """Arguments for vLLM; those in `options.vllm` override the others."""
    options = fit_to_machine(options, config)
    digest = hashlib.sha256(str(options.checkpoint.resolve()).encode()).hexdigest()[:16]
    directory = options.cache_dir / "vllm" / f"{digest}-{options.dtype}"
    arguments = {
        "model": str(write_view(options.checkpoint, directory, options.dtype)),
        "skip_tokenizer_init": True,
        "dtype": options.dtype,
        "max_model_len": longest_sequence(options, config),
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "kv_cache_memory_bytes": options.kv_cache_bytes or None,
        "gpu_memory_utilization": options.gpu_memory_utilization,
        "block_size": options.block_size,
        "enable_prefix_caching": True,
        "enforce_eager": not options.compile,
        "scheduling_policy": "priority",
        "limit_mm_per_prompt": {"image": config.max_images},
        "mm_processor_cache_gb": 0,
        "kv_transfer_config": KVTransferConfig(
            kv_connector="HiddenStatesConnector",
            kv_connector_module_path="model.vllm_plugin.cache.hidden_states",
            kv_role="kv_producer",
        ),
        "additional_config": {
            "kernel": options.kernel,
            "cache_dir": str(options.cache_dir.resolve()),
            "encoder_cache_images": options.encoder_cache_images,
        },
        "disable_log_stats": True,
        **rank_arguments(options),
    }
    return AsyncEngineArgs(**(arguments | dict(options.vllm)))


@dataclass
class TextStatistics:
    """Gauges of the last step, and counters since the start."""

    num_steps: int = 0
    num_running: int = 0
    num_waiting: int = 0
    kv_cache_usage: float = 0.0
    num_preempted: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0


class StatisticsLogger(StatLoggerBase):  # type: ignore[misc]
    """Keeps `TextStatistics` up to date from what vLLM reports after each step."""

    def __init__(self, statistics: TextStatistics) -> None:
        self.statistics = statistics

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,
        mm_cache_stats: Any = None,
        engine_idx: int = 0,
    ) -> None:
        mine = self.statistics
        mine.num_steps += 1
        if scheduler_stats is not None:
            mine.num_running = scheduler_stats.num_running_reqs
            mine.num_waiting = scheduler_stats.num_waiting_reqs
            mine.kv_cache_usage = scheduler_stats.kv_cache_usage
        if iteration_stats is not None:
            mine.num_preempted += iteration_stats.num_preempted_reqs
            mine.num_generated_tokens += iteration_stats.num_generation_tokens
            for request in iteration_stats.finished_requests:
                mine.num_prompt_tokens += request.num_prompt_tokens
                mine.num_cached_tokens += request.num_cached_tokens

    def log_engine_initialized(self) -> None:
        """Required by vLLM."""


def prepare_vllm(options: TextEngineOptions) -> None:
    """Set up this process, which the processes of vLLM inherit from."""
    bind_threads(options)
    if current_platform.is_cpu():  # vLLM compiles parts of its sampler when they first run.
        prepare_torch_compile()
    else:  # FlashInfer would compile its sampler at the first request; vLLM's own is there.
        os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")


def start_vllm(
    options: TextEngineOptions, config: MMInterleavedConfig, statistics: TextStatistics
) -> AsyncLLM:
    """Start vLLM's processes and load the model; takes from seconds to minutes."""
    prepare_vllm(options)

    def make_logger(vllm_config: VllmConfig, engine_index: int = 0) -> StatisticsLogger:
        return StatisticsLogger(statistics)

    arguments = engine_arguments(options, config)
    return AsyncLLM.from_engine_args(arguments, stat_loggers=[make_logger])


async def stop_vllm(llm: AsyncLLM) -> None:
    """Stop vLLM's processes and free their memory."""
    # The task that reads outputs would report the end of the processes as a crash.
    if llm.output_handler is not None:
        llm.output_handler.cancel()
    await asyncio.to_thread(llm.shutdown)
