"""One stage of the simulated system: a queue of turns and the replicas that serve it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from service.bench.autoscaling.scaler import Autoscaler, Scaling


@dataclass(frozen=True)
class Service:
    """What a replica does.

    Attributes:
        turn_s: length of a turn while the replica is full.
        concurrency: turns at a time.
        start_s: from the decision to readiness: scheduling, image, loading.
    """

    turn_s: float
    concurrency: int
    start_s: float


@dataclass
class Cohort:
    """Turns that entered a queue in the same second and go on alike.

    Attributes:
        count: turns.
        since: when they entered the queue.
        turn: their number within the story; even ones are text.
    """

    count: float
    since: float
    turn: int


class SimulatedStage:
    """Turns in cohorts, so that the cost does not depend on the rate."""

    def __init__(
        self, service: Service, scaling: Scaling, done: Callable[[Cohort, float], None]
    ) -> None:
        self.service, self.scaler = service, Autoscaler(scaling, scaling.least)
        self._queue: deque[Cohort] = deque()
        self._running: deque[tuple[float, Cohort]] = deque()
        self._pods = deque([[0.0, scaling.least]])  # when ready, how many; oldest first
        self._done = done
        self.queued = self.running = 0.0
        self.waits: list[tuple[float, float]] = []  # seconds in the queue, turns
        self.replica_s = 0.0

    def enqueue(self, cohort: Cohort) -> None:
        self._queue.append(cohort)
        self.queued += cohort.count

    def step(self, now: float, length_s: float) -> None:
        """Finish, change replicas, begin."""
        while self._running and self._running[0][0] <= now:
            cohort = self._running.popleft()[1]
            self.running -= cohort.count
            self._done(cohort, now)
        num_pods = self._resize(now)
        ready = sum(count for at, count in self._pods if at <= now)
        # A pod that goes finishes its turns first, and costs as long.
        draining = max(self.running - ready * self.service.concurrency, 0)
        self.replica_s += length_s * (num_pods + draining / self.service.concurrency)
        self._begin(now, ready * self.service.concurrency - self.running)

    def _resize(self, now: float) -> int:
        """Start pods, or stop the newest; how many there are."""
        num_pods = int(sum(count for _, count in self._pods))
        if missing := max(self.scaler.replicas - num_pods, 0):
            self._pods.append([now + self.service.start_s, missing])
        surplus: float = max(num_pods - self.scaler.replicas, 0)
        while surplus:
            gone = min(surplus, self._pods[-1][1])
            self._pods[-1][1] -= gone
            surplus -= gone
            if not self._pods[-1][1]:
                self._pods.pop()
        if len(self._pods) > 1 and self._pods[1][0] <= now:  # join batches that are ready
            self._pods[1][1] += self._pods.popleft()[1]
        return self.scaler.replicas

    def _begin(self, now: float, room: float) -> None:
        while self._queue and room > 1e-9:
            cohort = self._queue[0]
            count = min(cohort.count, room)
            room -= count
            self.waits.append((now - cohort.since, count))
            begun = Cohort(count, cohort.since, cohort.turn)
            self._running.append((now + self.service.turn_s, begun))
            self.running += count
            self.queued -= count
            cohort.count -= count
            if cohort.count <= 1e-9:
                self._queue.popleft()

    def poll(self, now: float, keeping_awake: float = 0.0) -> None:
        """Let KEDA look; tasks of another stage may keep the last replica."""
        self.scaler.poll(now, self.tasks() + keeping_awake)

    def sync(self, now: float) -> None:
        """Let the HPA look, to which those tasks count next to nothing."""
        self.scaler.sync(now, self.tasks())

    def tasks(self) -> float:
        """Queued and running turns; sums of shares that should be zero are zero."""
        tasks = self.queued + self.running
        return tasks if tasks > 1e-6 else 0.0
