"""A recipe from its first phase to a checkpoint that answers, by the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from model.checkpoint import store
from model.config import ConfigError
from model.training.recipe import PHASES, Recipe
from service.cli import main

_PHASE = """
[[{stage}]]
phase = "{phase}"
steps = 2
batch_size = 2
warmup_steps = 1
num_pictures = 4
"""


def _recipe(directory: Path) -> Path:
    path = directory / "short.toml"
    pretrain = [_PHASE.format(stage="pretrain", phase=phase) for phase in PHASES[:-1]]
    sft = _PHASE.format(stage="sft", phase=PHASES[-1])
    path.write_text('preset = "micro"\n' + "".join(pretrain) + sft)
    return path


def test_all_phases_make_a_checkpoint_that_can_be_scored(tmp_path: Path) -> None:
    common = ["--config", str(_recipe(tmp_path)), "--runs", str(tmp_path)]
    assert main(["train", "pretrain", *common]) == 0
    assert main(["train", "sft", *common]) == 0
    runs = tmp_path / "short"
    finished = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/checkpoint/manifest.json")}
    assert {path.parts[-3].partition("-")[2] for path in finished} == set(PHASES)
    assert main(["train", "pretrain", *common]) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    checkpoint = runs / "sft" / "checkpoint"
    store.verify(str(checkpoint))
    scores = tmp_path / "scores.json"
    asked = ["--tasks", "caption", "perplexity", "--number", "1", "--json", str(scores)]
    assert main(["eval", "--checkpoint", str(checkpoint), *asked]) == 0
    assert json.loads(scores.read_text())["scores"].keys() == {
        "caption recall",
        "story text, nats a token",
    }


@pytest.mark.parametrize("recipe", ["tiny", "smol"])
def test_shipped_recipes_are_valid(recipe: str) -> None:
    read = Recipe.load(Path(__file__).parents[3] / "deploy" / "train" / f"{recipe}.toml")
    assert read.pretrain[0].phase == "encoder"
    assert read.sft


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "wrong.toml"
    for text, word in (
        ('[[sft]]\nphase = "dream"\n', "dream"),
        ('[[sft]]\nphase = "joint"\nfrozen = ["legs"]\n', "legs"),
        ('[[sft]]\nphase = "joint"\nspeed = 3\n', "speed"),
    ):
        path.write_text(f'preset = "micro"\n{text}')
        with pytest.raises(ConfigError, match=word):
            Recipe.load(path)
