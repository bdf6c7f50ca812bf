"""The simulated system: turns are conserved, waits and costs follow from the numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.bench.autoscaling import simulation
from service.bench.autoscaling.scaler import Scaling
from service.bench.autoscaling.simulation import SimulatedRun, Simulation
from service.bench.autoscaling.stage import Cohort, Service
from service.bench.autoscaling.traces import TRACES, Trace
from service.commands import autoscaling

SERVICES = {"text": Service(4.0, 4, 10.0), "image": Service(4.0, 4, 10.0)}
WARM = {"text": Scaling(1, 50, least=50), "image": Scaling(1, 50, least=50)}
SHORT = replace(TRACES["steady"], duration_s=600)


def simulate(trace: Trace, rate: float, scaling: dict[str, Scaling]) -> SimulatedRun:
    return Simulation(trace, rate, SERVICES, scaling).run()


def test_idle_replicas_serve_at_once() -> None:
    outcome = simulate(SHORT, 2.0, WARM)
    assert max(outcome.wait_p99_s.values()) <= 1.0
    # Five turns of four seconds: only the stories of the last seconds are unfinished.
    assert 0 < outcome.unfinished <= 2.0 * 25 * 2
    assert outcome.replica_hours["text"] == pytest.approx(50 * 600 / 3600, rel=0.01)


def test_a_story_visits_the_text_stage_once_more_than_the_image_stage() -> None:
    simulated = Simulation(SHORT, 1.0, SERVICES, WARM)
    simulated.run()
    begun = {
        name: sum(count for _, count in stage.waits) for name, stage in simulated._stages.items()
    }
    assert begun["text"] / begun["image"] == pytest.approx(3 / 2, rel=0.1)


def test_too_few_replicas_make_turns_wait() -> None:
    few = {"text": Scaling(1, 50, least=50), "image": Scaling(1, 1, least=1)}
    outcome = simulate(SHORT, 2.0, few)
    assert outcome.wait_p99_s["image"] > 60
    assert outcome.wait_p99_s["text"] <= 1.0


def test_the_first_story_waits_for_a_start() -> None:
    simulated = Simulation(SHORT, 0.5, SERVICES, {name: Scaling(4, 50) for name in SERVICES})
    simulated.run()
    longest = max(wait for wait, _ in simulated._stages["text"].waits)
    assert 10.0 <= longest <= 20.0


def test_images_keep_the_text_worker_that_goes_on_after_them() -> None:
    """As the triggers have it: else each story would wait for another start after its image."""
    assert simulation.KEPT_AWAKE_BY == autoscaling.KEPT_AWAKE_BY
    services = SERVICES | {"image": Service(400.0, 4, 10.0)}
    scalings = {name: Scaling(4, 8, cooldown_s=60) for name in SERVICES}
    slow = Simulation(replace(SHORT, duration_s=1200), 0.0, services, scalings)
    slow._enqueue(Cohort(1, 0.0, 0))
    slow.run()
    first, *others = (wait for wait, _ in slow._stages["text"].waits)
    assert first >= 10.0 and len(others) == 2
    assert max(others) <= 1.0


def test_the_work_per_step_does_not_grow_with_the_rate() -> None:
    large = {name: Scaling(4, 10**6, least=20_000) for name in SERVICES}
    outcome = simulate(replace(SHORT, duration_s=120), 10_000, large)
    assert outcome.stories > 500_000
