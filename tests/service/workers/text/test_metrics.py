"""The text engine's statistics are exported, under names that the documents have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from prometheus_client import CollectorRegistry, generate_latest

from model.engine.text.engine import VllmTextEngine
from model.engine.text.startup.vllm import TextStatistics
from service.workers.text.metrics import TextEngineCollector

OPERATIONS = Path(__file__).resolve().parents[4] / "docs" / "operations.md"


def test_all_statistics_are_exported_and_documented() -> None:
    statistics = TextStatistics(*range(1, 8))
    registry = CollectorRegistry()
    engine = cast(VllmTextEngine, SimpleNamespace(statistics=statistics))
    registry.register(TextEngineCollector(engine))

    lines = generate_latest(registry).decode().splitlines()

    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert sorted(map(float, values.values())) == sorted(map(float, vars(statistics).values()))
    assert "mmi_text_kv_cache_usage" in values and "mmi_text_preempted_total" in values
    text = OPERATIONS.read_text()
    assert all(f"`{name}`" in text for name in values)
