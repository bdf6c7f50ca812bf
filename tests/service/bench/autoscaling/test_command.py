"""`mmi bench autoscaling`: its defaults are the manifests', and its report is complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from service.bench.autoscaling.command import SCALINGS
from service.cli import main
from service.commands import autoscaling


def test_defaults_are_those_of_the_manifests() -> None:
    assert SCALINGS.keys() == autoscaling.SIZES.keys()
    for stage, (most, target) in autoscaling.SIZES.items():
        scaling = SCALINGS[stage]
        assert (scaling.most, scaling.target) == (most, target)
        assert scaling.polling_s == autoscaling.POLLING_S
        assert scaling.cooldown_s == autoscaling.COOLDOWN_S
        assert scaling.stabilization_s == autoscaling.STABILIZATION_S


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--traces", "burst", "--rates", "0.05", "--out", str(tmp_path)]
    assert main(["bench", "autoscaling", *arguments]) == 0
    (line,) = json.loads((tmp_path / "autoscaling.json").read_text())
    assert line["trace"] == "burst"
    assert line["stories"] > 100
    assert line["image_wait_p99_s"] >= line["image_wait_p50_s"]
    assert line["cost_per_1000"] > 0
    assert (tmp_path / "autoscaling.png").stat().st_size > 1000
    assert "burst" in capsys.readouterr().out
