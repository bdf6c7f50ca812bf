"""A run that is killed and goes on leaves the curves of one that was not."""

from __future__ import annotations

import csv
from pathlib import Path

from model.training.curves import Curves


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_a_step_that_is_done_again_has_one_row(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    curves = Curves(path, 0)
    for step in (10, 20, 30):
        curves.append(step, {"loss": 1 / step}, step * 2.0)
    curves = Curves(path, 20)
    curves.append(30, {"loss": 0.5}, 7.0)
    header, *rows = _rows(path)
    assert header == ["step", "loss", "seconds"]
    assert rows == [["10", "0.1", "20"], ["20", "0.05", "40"], ["30", "0.5", "47"]]


def test_a_row_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("step,loss,seconds\r\n10,0.5,3\r\n2")
    Curves(path, 10).append(20, {"loss": 0.25}, 1.0)
    assert [row[0] for row in _rows(path)] == ["step", "10", "20"]


def test_without_a_state_the_curves_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    Curves(path, 0).append(10, {"loss": 0.5}, 1.0)
    Curves(path, 0).append(10, {"loss": 0.25, "text": 1.0}, 1.0)
    assert _rows(path) == [["step", "loss", "text", "seconds"], ["10", "0.25", "1", "1"]]
