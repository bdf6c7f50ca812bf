"""A resumed run is the run that was not stopped; curves keep every step once."""

from __future__ import annotations

import copy
import csv
from pathlib import Path

import pytest
import torch

from model.mm_interleaved import MMInterleaved
from model.processor import Processor
from model.training.optimizer import OPTIMIZERS, OptimizerName
from model.training.trainer import Curves, Trainer, TrainerConfig
from tests.model.training.objectives.fixed_batch import FixedBatch, language


def test_half_precision_learns_as_well(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    objective = FixedBatch(language(model, processor, 2))
    config = TrainerConfig(steps=8, learning_rate=3e-3, warmup_steps=1, half=True)
    trainer = Trainer(objective, config, tmp_path)
    first = trainer.run(stop_at=1)["loss"]
    assert trainer.run()["loss"] < 0.9 * first
    assert {parameter.dtype for parameter in trainer.parameters} == {torch.float32}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_resumed_run_is_bit_exact(
    model: MMInterleaved, processor: Processor, tmp_path: Path, optimizer: OptimizerName
) -> None:
    config = TrainerConfig(
        steps=4, learning_rate=1e-3, ema_decay=0.9, optimizer=optimizer, seed=20_261_130
    )
    weights = {"caption": 1.0, "text_to_image": 1.0}
    other, resumed = copy.deepcopy(model), copy.deepcopy(model)

    def trainer(of: MMInterleaved, name: str) -> Trainer:
        return Trainer(language(of, processor, 2, weights), config, tmp_path / name)

    whole = trainer(model, "whole")
    whole.run()
    trainer(other, "parts").run(stop_at=2)
    after = trainer(resumed, "parts")
    assert after.step == 2
    after.run()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
    for mine, theirs in zip(whole.average, after.average, strict=True):
        assert torch.equal(mine, theirs)


def test_rate_warms_up_and_falls(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    config = TrainerConfig(steps=100, learning_rate=1.0, warmup_steps=10, final_rate=0.1)
    trainer = Trainer(language(model, processor, 1), config, tmp_path)
    rates = [trainer.rate(step) for step in range(101)]
    assert rates[:10] == [(step + 1) / 10 for step in range(10)]
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert abs(rates[100] - 0.1) < 1e-9


def test_a_run_ends_with_its_time_at_the_lowest_rate(
    model: MMInterleaved, processor: Processor, tmp_path: Path
) -> None:
    config = TrainerConfig(steps=1000, learning_rate=1e-3, warmup_steps=0, seconds=1e-3)
    trainer = Trainer(language(model, processor, 1), config, tmp_path)
    trainer.run()
    assert trainer.step == 1
    assert trainer.rate(1) == config.learning_rate * config.final_rate
    resumed = Trainer(language(model, processor, 1), config, tmp_path)
    resumed.run()
    assert resumed.step == 1


def test_bfloat16_is_for_processors_that_have_it(
    model: MMInterleaved, processor: Processor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainerConfig(steps=1, learning_rate=1e-3, half=True)
    trainer = Trainer(language(model, processor, 1), config, tmp_path)
    for has in (True, False):
        monkeypatch.setattr("model.training.trainer.multiplies_bfloat16", lambda _, has=has: has)
        with trainer._precision():
            assert torch.is_autocast_enabled("cpu") == has


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
