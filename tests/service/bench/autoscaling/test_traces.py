from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from service.bench.autoscaling.traces import TRACES


def test_arrivals_follow_from_the_seed() -> None:
    trace = replace(TRACES["steady"], duration_s=100)
    first = list(trace.arrivals(5.0, seed=1))
    assert len(first) == 100
    assert list(trace.arrivals(5.0, seed=1)) == first
    assert list(trace.arrivals(5.0, seed=2)) != first


@pytest.mark.parametrize("name", ["steady", "diurnal", "image-heavy"])
def test_the_base_rate_is_the_average(name: str) -> None:
    arrivals = list(TRACES[name].arrivals(4.0, seed=0))
    assert sum(arrivals) / len(arrivals) == pytest.approx(4.0, rel=0.03)


def test_a_burst_is_five_minutes_of_ten_times_the_rate() -> None:
    trace = TRACES["burst"]
    busy = [second for second in range(trace.duration_s) if trace.rate(second) != 1.0]
    assert busy == list(range(1800, 2100))
    during = list(islice(trace.arrivals(2.0, seed=0), 1800, 2100))
    assert sum(during) / len(during) == pytest.approx(20.0, rel=0.05)


def test_a_day_is_quiet_at_night_and_never_without_load() -> None:
    trace = TRACES["diurnal"]
    rates = [trace.rate(second) for second in range(trace.duration_s)]
    assert min(rates) == rates[0] == pytest.approx(0.05)
    assert max(rates) == rates[3600] == pytest.approx(1.95)
