"""The shipped checkpoints do what their cards say, on a few held-out examples."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from model.training.evaluation import command as evaluate

CHECKPOINTS = Path(__file__).parents[4] / "deploy" / "checkpoints"
_WANTED = {
    "caption recall": 0.9,
    "grounding IoU": 0.8,
    "text-to-image begins a picture": 1.0,
    "text-to-image attributes": 0.8,
}


@pytest.mark.parametrize("name", sorted(path.name for path in CHECKPOINTS.iterdir()))
def test_shipped_checkpoint_describes_finds_and_draws(name: str, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    table = tmp_path / "scores.json"
    options = ["--checkpoint", str(CHECKPOINTS / name), "--number", "4", "--steps", "8"]
    options += ["--world", "drawn", "--json", str(table)]
    options += ["--tasks", "caption", "grounding", "text_to_image"]
    assert evaluate.run(parser.parse_args(options)) == 0
    scores = json.loads(table.read_text())["scores"]
    for score, wanted in _WANTED.items():
        assert scores[score]["mean"] >= wanted, score
