"""The simulated system: stories arrive, alternate between the stages, and both stages scale."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from service.bench.autoscaling.scaler import SYNC_S, Scaling
from service.bench.autoscaling.stage import Cohort, Service, SimulatedStage
from service.bench.autoscaling.traces import Trace

STEP_S = 1.0
# As in the triggers that `mmi autoscaling` writes.
KEPT_AWAKE_BY = {"text": "image"}


@dataclass(frozen=True)
class SimulatedRun:
    """What a run cost, and how long turns waited in each stage's queue."""

    stories: float
    unfinished: float
    wait_p50_s: Mapping[str, float]
    wait_p99_s: Mapping[str, float]
    replica_hours: Mapping[str, float]
    peak_replicas: Mapping[str, int]

    def cost(self, prices: Mapping[str, float]) -> float:
        """Price of 1,000 stories, from prices of a replica's hour."""
        total = sum(self.replica_hours[stage] * prices[stage] for stage in prices)
        return 1000 * total / max(self.stories, 1e-9)


class Simulation:
    """One trace through one configuration."""

    def __init__(
        self,
        trace: Trace,
        base: float,
        services: Mapping[str, Service],
        scalings: Mapping[str, Scaling],
        seed: int = 0,
    ) -> None:
        self._trace, self._arrivals = trace, trace.arrivals(base, seed)
        self._stages = {
            name: SimulatedStage(services[name], scalings[name], self._next) for name in services
        }
        self._environment = simpy.Environment()
        self._finished = self._arrived = 0.0
        self._peak = dict.fromkeys(services, 0)

    def run(self) -> SimulatedRun:
        polling = min(s.scaler.scaling.polling_s for s in self._stages.values())
        for period, work in ((STEP_S, self._step), (polling, self._poll), (SYNC_S, self._sync)):
            self._environment.process(self._every(period, work))
        self._environment.run(until=self._trace.duration_s)
        stages = self._stages
        return SimulatedRun(
            stories=self._finished,
            unfinished=self._arrived - self._finished,
            wait_p50_s={name: _quantile(stage.waits, 0.5) for name, stage in stages.items()},
            wait_p99_s={name: _quantile(stage.waits, 0.99) for name, stage in stages.items()},
            replica_hours={name: stage.replica_s / 3600 for name, stage in stages.items()},
            peak_replicas=self._peak,
        )

    def _every(
        self, period: float, work: Callable[[float], None]
    ) -> Generator[simpy.Timeout, Any, None]:
        while True:
            work(self._environment.now)
            yield self._environment.timeout(period)

    def _step(self, now: float) -> None:
        count = next(self._arrivals, 0)
        self._arrived += count
        if count:
            self._enqueue(Cohort(count, now, 0))
        for name, stage in self._stages.items():
            stage.step(now, STEP_S)
            self._peak[name] = max(self._peak[name], stage.scaler.replicas)

    def _poll(self, now: float) -> None:
        for name, stage in self._stages.items():
            stage.poll(now, self._keeping_awake(name))

    def _sync(self, now: float) -> None:
        for stage in self._stages.values():
            stage.sync(now)

    def _keeping_awake(self, name: str) -> float:
        other = KEPT_AWAKE_BY.get(name)
        return self._stages[other].tasks() if other else 0.0

    def _enqueue(self, cohort: Cohort) -> None:
        self._stages["image" if cohort.turn % 2 else "text"].enqueue(cohort)

    def _next(self, cohort: Cohort, now: float) -> None:
        """A turn ended: the story goes on in the other stage, or ends."""
        if cohort.turn == 2 * self._trace.images:
            self._finished += cohort.count
        else:
            self._enqueue(Cohort(cohort.count, now, cohort.turn + 1))


def _quantile(waits: list[tuple[float, float]], share: float) -> float:
    """The wait that a share of the turns does not exceed."""
    if not waits:
        return 0.0
    seconds, counts = np.array(waits).T
    order = np.argsort(seconds)
    cumulative = np.cumsum(counts[order])
    return float(seconds[order][np.searchsorted(cumulative, share * cumulative[-1])])
