from __future__ import annotations

import pytest

from service.bench.autoscaling.scaler import Scaling
from service.bench.autoscaling.stage import Cohort, Service, SimulatedStage

SERVICE = Service(turn_s=10.0, concurrency=4, start_s=30.0)


def stage(least: int, most: int = 10) -> tuple[SimulatedStage, list[tuple[float, float]]]:
    """A stage, and when how many turns of it have ended."""
    ended: list[tuple[float, float]] = []
    made = SimulatedStage(
        SERVICE,
        Scaling(target=4, most=most, least=least),
        lambda cohort, now: ended.append((now, cohort.count)),
    )
    return made, ended


def run(stage: SimulatedStage, start: int, end: int) -> None:
    for second in range(start, end):
        stage.step(second, 1.0)


def test_turns_beyond_the_room_wait_for_others_to_end() -> None:
    made, ended = stage(least=1)
    made.enqueue(Cohort(6.0, 0.0, 0))
    run(made, 0, 5)
    assert (made.running, made.queued) == (4, 2)
    run(made, 5, 25)
    assert ended == [(10.0, 4.0), (20.0, 2.0)]
    assert made.waits == [(0.0, 4.0), (10.0, 2.0)]
    assert (made.running, made.queued) == (0, 0)


def test_the_first_in_the_queue_begins_first() -> None:
    made, _ = stage(least=1)
    for since, turn in ((0.0, 1), (1.0, 2)):
        made.enqueue(Cohort(4.0, since, turn))
    run(made, 1, 12)
    assert made.waits == [(1.0, 4.0), (10.0, 4.0)]


def test_a_pod_takes_no_turns_before_it_is_ready() -> None:
    made, ended = stage(least=0)
    made.enqueue(Cohort(1.0, 0.0, 0))
    made.poll(0)
    run(made, 0, 29)
    assert not made.waits and made.scaler.replicas == 1
    run(made, 29, 41)
    assert made.waits == [(30.0, 1.0)] and ended == [(40.0, 1.0)]
    # It costs from the decision on.
    assert made.replica_s == pytest.approx(41.0)


def test_a_pod_that_goes_finishes_its_turns_and_costs_as_long() -> None:
    made, ended = stage(least=1)
    made.enqueue(Cohort(4.0, 0.0, 0))
    made.step(0, 1.0)
    made.scaler.replicas = 0
    run(made, 1, 10)
    assert made.replica_s == pytest.approx(10.0)
    made.enqueue(Cohort(1.0, 9.0, 0))
    run(made, 10, 20)
    assert ended == [(10.0, 4.0)]
    assert made.queued == 1 and made.replica_s == pytest.approx(10.0)


def test_the_newest_pods_go_first() -> None:
    made, _ = stage(least=1)
    made.scaler.replicas = 3
    made.step(0, 1.0)
    made.scaler.replicas = 1
    made.step(1, 1.0)
    made.enqueue(Cohort(8.0, 1.0, 0))
    made.step(2, 1.0)
    assert made.running == 4  # The pod that was ready is the one that stayed.
    run(made, 3, 40)
    assert made.replica_s == pytest.approx(3 + 39)


def test_shares_of_turns_leave_no_task_behind() -> None:
    made, _ = stage(least=1)
    for _ in range(10):
        made.enqueue(Cohort(0.1, 0.0, 0))
    run(made, 0, 12)
    made.sync(12)
    assert made.tasks() == 0.0
