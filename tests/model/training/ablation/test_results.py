"""Intervals are about the means."""

from __future__ import annotations

from model.training.ablation.results import as_markdown, summarise
from model.training.ablation.variants import VARIANTS


def test_intervals_hold_the_mean_and_grow_with_the_spread_of_seeds() -> None:
    same = summarise([{"score": [0.0, 1.0] * 50}] * 3)["score"]
    apart = summarise([{"score": [0.0] * 100}, {"score": [1.0] * 100}, {"score": [0.0, 1.0] * 50}])
    assert same["low"] < same["mean"] == 0.5 < same["high"]
    assert apart["score"]["high"] - apart["score"]["low"] > same["high"] - same["low"]
    table = as_markdown({VARIANTS[0].name: {"score": same}, VARIANTS[3].name: {}})
    assert table.splitlines()[0] == "| synchronizer in | nowhere | language model and decoder |"
    assert "0.500" in table
