"""Starts vLLM for a checkpoint."""

from __future__ import annotations

import asyncio
import hashlib

from vllm import AsyncEngineArgs
from vllm.config import KVTransferConfig
from vllm.platforms import current_platform
from vllm.v1.engine.async_llm import AsyncLLM

from model.compiler import prepare_torch_compile
from model.config.schema import MMInterleavedConfig
from model.engine.text.options import TextEngineOptions
from model.engine.text.statistics import TextStatistics, logger_factory
from model.vllm_plugin.config import write_view


def longest_sequence(options: TextEngineOptions, config: MMInterleavedConfig) -> int:
    """Tokens of the longest sequence that the engine takes."""
    return options.max_model_len or min(config.seq_len, config.llm.max_position_embeddings)


def engine_arguments(options: TextEngineOptions, config: MMInterleavedConfig) -> AsyncEngineArgs:
    """VLLM's arguments. Those in `options.vllm` have the last word."""
    digest = hashlib.sha256(str(options.checkpoint.resolve()).encode()).hexdigest()[:16]
    directory = options.cache_dir / "vllm" / f"{digest}-{options.dtype}"
    arguments = {
        "model": str(write_view(options.checkpoint, directory, options.dtype)),
        "skip_tokenizer_init": True,
        "dtype": options.dtype,
        "max_model_len": longest_sequence(options, config),
        "max_num_seqs": options.max_num_seqs,
        "max_num_batched_tokens": options.max_num_batched_tokens,
        "kv_cache_memory_bytes": options.kv_cache_bytes,
        "block_size": options.block_size,
        "enable_prefix_caching": True,
        "enforce_eager": not options.compile,
        "scheduling_policy": "priority",
        "limit_mm_per_prompt": {"image": config.max_images},
        "mm_processor_cache_gb": 0,
        "logits_processors": ["model.vllm_plugin.penalties:ResumedPenalties"],
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
    }
    return AsyncEngineArgs(**(arguments | dict(options.vllm)))


def start_vllm(
    options: TextEngineOptions, config: MMInterleavedConfig, statistics: TextStatistics
) -> AsyncLLM:
    """Start vLLM's processes and load the model; takes from seconds to minutes."""
    if current_platform.is_cpu():  # vLLM compiles parts of its sampler when they first run.
        prepare_torch_compile()
    return AsyncLLM.from_engine_args(
        engine_arguments(options, config), stat_loggers=[logger_factory(statistics)]
    )


async def stop_vllm(llm: AsyncLLM) -> None:
    """Stop vLLM's processes and free their memory."""
    # The reader of outputs would take the end of the processes for their death.
    if llm.output_handler is not None:
        llm.output_handler.cancel()
    await asyncio.to_thread(llm.shutdown)
