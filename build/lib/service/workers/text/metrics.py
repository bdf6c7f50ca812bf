"""The text engine's own statistics at `/metrics`, read at each scrape."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model.engine.text.engine import VllmTextEngine

_COUNTERS = {
    "num_steps": ("mmi_text_steps", "Steps of the engine, as the watchdog sees them"),
    "num_preempted": ("mmi_text_preempted", "Sequences preempted to free KV cache"),
    "num_prompt_tokens": ("mmi_text_prompt_tokens", "Prompt tokens of all turns"),
    "num_cached_tokens": ("mmi_text_cached_tokens", "Of these, tokens found in the prefix cache"),
    "num_generated_tokens": ("mmi_text_generated_tokens", "Tokens that the engine has sampled"),
}
_GAUGES = {
    "num_waiting": ("mmi_text_waiting", "Sequences that wait for memory or a slot"),
    "num_running": ("mmi_text_running", "Sequences in the engine's batch"),
    "kv_cache_usage": ("mmi_text_kv_cache_usage", "Share of the KV cache in use, 0 to 1"),
}


class TextEngineCollector(Collector):
    """Metrics of one engine."""

    def __init__(self, engine: VllmTextEngine) -> None:
        self._engine = engine

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        statistics = self._engine.statistics
        for field, (name, text) in _COUNTERS.items():
            yield CounterMetricFamily(name, text, getattr(statistics, field))
        for field, (name, text) in _GAUGES.items():
            yield GaugeMetricFamily(name, text, getattr(statistics, field))


def export(engine: VllmTextEngine) -> None:
    """Export an engine's statistics at `/metrics`."""
    REGISTRY.register(TextEngineCollector(engine))
