"""The formulas of KEDA and the HPA."""

from __future__ import annotations

import pytest

from service.bench.autoscaling.scaler import Autoscaler, Scaling, wanted_replicas


@pytest.mark.parametrize(
    ("current", "tasks", "wanted"),
    [
        (1, 16, 2),
        (2, 17, 2),  # within the tolerance of a tenth
        (2, 18, 3),
        (3, 10, 2),
        (5, 0, 0),
        (0, 1, 1),
    ],
)
def test_average_value(current: int, tasks: float, wanted: int) -> None:
    assert wanted_replicas(current, tasks, target=8) == wanted


def test_waking_from_zero_and_going_back() -> None:
    scaler = Autoscaler(Scaling(target=2, most=4, cooldown_s=60))
    scaler.poll(0, 0)
    assert scaler.replicas == 0
    scaler.poll(5, 1)
    assert scaler.replicas == 1
    scaler.poll(60, 0)
    assert scaler.replicas == 1
    scaler.poll(65, 0)
    assert scaler.replicas == 0


def test_growing_is_bounded_by_the_policies_and_the_maximum() -> None:
    scaler = Autoscaler(Scaling(target=1, most=20), replicas=1)
    seen = []
    for now in range(0, 75, 15):
        scaler.sync(now, 100)
        seen.append(scaler.replicas)
    assert seen == [5, 10, 20, 20, 20]


def test_shrinking_waits_for_the_window() -> None:
    scaler = Autoscaler(Scaling(target=1, most=20, stabilization_s=30), replicas=8)
    for now, tasks, replicas in [(0, 8, 8), (15, 2, 8), (30, 2, 8), (45, 2, 2)]:
        scaler.sync(now, tasks)
        assert scaler.replicas == replicas
