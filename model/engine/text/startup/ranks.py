"""The processes of vLLM that hold one model together: tensor parallelism, on one host or several.

Rank 0 lives beside the engine, so it alone writes the hidden states of contexts.
"""

from __future__ import annotations

import os
from typing import Any

from vllm.platforms import current_platform

from model.engine.text.options import TextEngineOptions

_BINDING = "VLLM_CPU_OMP_THREADS_BIND"


def rank_arguments(options: TextEngineOptions) -> dict[str, Any]:
    """Say to vLLM how many ranks there are, and which hosts they are on."""
    arguments: dict[str, Any] = {"tensor_parallel_size": options.tensor_parallel_size}
    if options.num_hosts > 1:
        host, _, port = options.leader_address.rpartition(":")
        arguments |= {
            "distributed_executor_backend": "mp",
            "nnodes": options.num_hosts,
            "node_rank": options.host_rank,
            "master_addr": host,
            "master_port": int(port),
        }
    return arguments


def bind_threads(options: TextEngineOptions) -> None:
    """On a CPU, give each rank of this host its own processors.

    vLLM would give each a memory node of its own, and refuse a host that has fewer.
    """
    num_ranks = options.tensor_parallel_size // options.num_hosts
    if current_platform.is_cpu() and options.tensor_parallel_size > 1:
        shares = share_processors(sorted(os.sched_getaffinity(0)), num_ranks)
        os.environ.setdefault(_BINDING, shares)


def share_processors(processors: list[int], num_ranks: int) -> str:
    """Divide processors among ranks, in vLLM's notation; with too few, all ranks use all."""
    share = len(processors) // num_ranks
    if share == 0:
        return "nobind"
    lists = [processors[i * share : (i + 1) * share] for i in range(num_ranks)]
    return "|".join(",".join(map(str, one)) for one in lists)
