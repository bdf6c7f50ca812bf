"""Settings of the text engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class TextEngineOptions:
    """Where the model is, and how much of the machine it may use.

    Attributes:
        checkpoint: directory of the checkpoint.
        cache_dir: for the directory that vLLM reads, and for what is compiled.
        dtype: type of weights and caches; `auto` is float32 on CPUs, bfloat16 on GPUs.
        max_num_seqs: sequences in one step.
        max_num_batched_tokens: tokens in one step; at least max_num_seqs + tokens of an image.
        kv_cache_bytes: paged cache, features and hidden states included. 0 is 512 MiB on CPUs,
            and on a GPU what is left of the engine's share.
        gpu_memory_utilization: the engine's share of a GPU's memory. 0 takes what the memory plan
            asks for if `kv_cache_bytes` is given, else all but an image worker's share.
        image_concurrency: images at a time of an image worker on the same GPU; 0: none is there.
        max_model_len: longest sequence; None takes the model's.
        block_size: tokens of a cache block, the unit of prefix caching.
        encoder_cache_images: images whose features stay at hand although no request uses them.
        compile: let vLLM compile the decoder.
        kernel: which implementation samples images; `auto` takes the fastest that is there.
        tensor_parallel_size: ranks that hold the model together, each on a GPU of its own; they
            divide the attention heads.
        num_hosts: hosts that the ranks are on, in equal numbers.
        host_rank: this host's number; 0 is the leader, the only one with an engine.
        leader_address: host and port by which the ranks of several hosts find each other.
        vllm: further arguments of vLLM's AsyncEngineArgs, which override all others.
    """

    checkpoint: Path
    cache_dir: Path = Path(".build")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_num_seqs: int = 32
    max_num_batched_tokens: int = 1024
    kv_cache_bytes: int = 0
    gpu_memory_utilization: float = 0.0
    image_concurrency: int = 0
    max_model_len: int | None = None
    block_size: int = 32
    encoder_cache_images: int = 64
    compile: bool = False
    kernel: Literal["auto", "torch", "cpp", "triton"] = "auto"
    tensor_parallel_size: int = 1
    num_hosts: int = 1
    host_rank: int = 0
    leader_address: str = "127.0.0.1:29501"
    vllm: Mapping[str, Any] = field(default_factory=dict)
