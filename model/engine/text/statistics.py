"""What the text engine is doing, for metrics and tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.config import VllmConfig
from vllm.v1.metrics.loggers import StatLoggerBase


@dataclass
class TextStatistics:
    """Gauges of the last step, and counters since the start."""

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
        """Take one step's numbers."""
        mine = self.statistics
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
        """Nothing to say."""


def logger_factory(statistics: TextStatistics) -> Any:
    """What vLLM wants: something that makes a logger from a configuration."""

    def make(vllm_config: VllmConfig, engine_index: int = 0) -> StatisticsLogger:
        return StatisticsLogger(statistics)

    return make
