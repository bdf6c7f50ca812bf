"""How many replicas KEDA and the HorizontalPodAutoscaler set, by their published formulas."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

# Of kube-controller-manager and of the HPA's default policies for growing.
SYNC_S = 15.0
TOLERANCE = 0.1
_MOST_PODS, _MOST_SHARE = 4, 1.0


@dataclass(frozen=True)
class Scaling:
    """A ScaledObject's numbers.

    Attributes:
        target: tasks for which one replica is worth its cost.
        most: replicas.
        least: replicas; 0 lets the last one go after the cooldown.
        polling_s: how often KEDA looks whether to wake from zero.
        cooldown_s: time without work before the last replica goes.
        stabilization_s: window whose largest wish counts when shrinking.
    """

    target: float
    most: int
    least: int = 0
    polling_s: float = 5.0
    cooldown_s: float = 300.0
    stabilization_s: float = 120.0


def wanted_replicas(current: int, tasks: float, target: float) -> int:
    """The HPA's wish for an external metric of type AverageValue."""
    if current and abs(tasks / (current * target) - 1) <= TOLERANCE:
        return current
    return math.ceil(tasks / target)


@dataclass
class Autoscaler:
    """KEDA and its HPA for one stage; `replicas` is what the Deployment is set to."""

    scaling: Scaling
    replicas: int = 0
    _wishes: deque[tuple[float, int]] = field(default_factory=deque)
    _idle_since: float = 0.0

    def poll(self, now: float, tasks: float) -> None:
        """KEDA: wake from zero, or let the last replica go."""
        if tasks > 0:
            self._idle_since = now
            self.replicas = max(self.replicas, self.scaling.least, 1)
        elif now - self._idle_since >= self.scaling.cooldown_s:
            self.replicas = self.scaling.least
            self._wishes.clear()

    def sync(self, now: float, tasks: float) -> None:
        """The HPA: follow the tasks, upwards within its policies, downwards after the window."""
        if self.replicas == 0:
            return
        wish = wanted_replicas(self.replicas, tasks, self.scaling.target)
        wish = min(max(wish, self.scaling.least, 1), self.scaling.most)
        self._wishes.append((now, wish))
        while self._wishes[0][0] < now - self.scaling.stabilization_s:
            self._wishes.popleft()
        if wish > self.replicas:
            step = max(_MOST_PODS, math.ceil(self.replicas * _MOST_SHARE))
            self.replicas = min(wish, self.replicas + step)
        else:
            self.replicas = min(self.replicas, max(wish for _, wish in self._wishes))
