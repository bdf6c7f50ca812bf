"""Arrivals of stories: requests in each second of a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Trace:
    """A named load.

    Attributes:
        rate: from the second to the share of the base rate.
        duration_s: length.
        images: images of a story.
    """

    name: str
    rate: Callable[[float], float]
    duration_s: int
    images: int = 2

    def arrivals(self, base: float, seed: int) -> Iterator[int]:
        """Stories that arrive in each second, Poisson, at `base` per second on average."""
        generator = np.random.default_rng(seed)
        for second in range(self.duration_s):
            yield int(generator.poisson(base * self.rate(second)))


def _burst(second: float) -> float:
    return 10.0 if 1800 <= second < 2100 else 1.0


def _diurnal(second: float) -> float:
    """A day in two hours: 5 % at night, 195 % at noon."""
    return 1.0 - 0.95 * math.cos(2 * math.pi * second / 7200)


TRACES = {
    trace.name: trace
    for trace in (
        Trace("steady", lambda _: 1.0, 3600),
        Trace("burst", _burst, 3600),
        Trace("diurnal", _diurnal, 7200),
        Trace("image-heavy", lambda _: 1.0, 3600, images=6),
    )
}
