from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, generate_latest

from service.telemetry.metrics import start_at_zero


def test_every_combination_of_labels_exists_before_it_counts() -> None:
    registry = CollectorRegistry()
    counter = Counter("turns", "Turns", ("stage", "outcome"), registry=registry)
    start_at_zero(counter, ("text", "image"), ("done", "failed"))
    lines = generate_latest(registry).decode().splitlines()
    assert sum(line.startswith("turns_total{") and line.endswith(" 0.0") for line in lines) == 4
