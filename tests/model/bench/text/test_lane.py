from __future__ import annotations

import os
from pathlib import Path

import pytest

from model.bench.text.lane import Lane, LaneOptions, _environment, _threads
from model.checkpoint import seeded
from model.engine.text.options import TextEngineOptions


def options_of(variant: str, checkpoint: Path = Path()) -> LaneOptions:
    return LaneOptions(variant, TextEngineOptions(checkpoint, dtype="float32"), 1, 4, (0,))


def test_every_variant_is_bound_to_the_same_cores() -> None:
    assert _threads(options_of("official")) == {"OMP_NUM_THREADS": "1", "GOMP_CPU_AFFINITY": "0"}
    for variant in ("ours", "stock"):
        assert _threads(options_of(variant))["VLLM_CPU_OMP_THREADS_BIND"] == "0"


def test_the_environment_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MMI_A", "before")
    monkeypatch.delenv("MMI_B", raising=False)
    with _environment({"MMI_A": "1", "MMI_B": "2"}):
        assert (os.environ["MMI_A"], os.environ["MMI_B"]) == ("1", "2")
    assert os.environ["MMI_A"] == "before" and "MMI_B" not in os.environ


def test_a_lane_serves_batches_until_it_is_stopped(tmp_path: Path) -> None:
    checkpoint = seeded.create("micro", tmp_path / "micro")
    lane = Lane(options_of("official", checkpoint))
    try:
        lane.ready()
        served = lane.serve(0, 2, 3)
        assert [len(ids) for ids in served.token_ids] == [3, 3]
        assert served.token_ids == lane.serve(0, 2, 3).token_ids
    finally:
        lane.stop()


def test_a_lane_that_dies_says_so(tmp_path: Path) -> None:
    lane = Lane(options_of("official", tmp_path))
    try:
        with pytest.raises(RuntimeError, match="'official' has ended"):
            lane.ready()
    finally:
        lane.stop()
