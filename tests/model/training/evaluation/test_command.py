"""The checkpoints of the repository do what their cards say, on held-out examples."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from model.checkpoint.shipped import SHIPPED
from model.training.evaluation import command as evaluate
from model.training.evaluation.command import ScoreTable

_TINY = SHIPPED.with_name("tiny")
_TINYS_SCORES = {
    "caption recall": 0.9,
    "grounding IoU": 0.8,
    "text-to-image begins a picture": 1.0,
    "text-to-image attributes": 0.8,
}
_FEWEST = 8


def _scores(directory: Path, *options: str) -> ScoreTable:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    table = directory / "scores.json"
    assert evaluate.run(parser.parse_args([*options, "--json", str(table)])) == 0
    scores: ScoreTable = json.loads(table.read_text())["scores"]
    return scores


def _assert_as_on_the_card(scores: ScoreTable) -> None:
    """No mean is further below the card's than chance allows: four deviations of a share.

    The card's is one of a sample, too: a share of 1 there can be less (Laplace's estimate).
    """
    card = json.loads((SHIPPED / "scores.json").read_text())["scores"]
    compared = {name for name, row in scores.items() if name in card and row["number"] >= _FEWEST}
    assert compared
    for name in compared:
        said, number = card[name]["mean"], scores[name]["number"]
        likely = (said * card[name]["number"] + 1) / (card[name]["number"] + 2)
        slack = 4 * math.sqrt(likely * (1 - likely) / number) + 1 / number
        assert scores[name]["mean"] >= said - slack, name


def test_tiny_describes_finds_and_draws(tmp_path: Path) -> None:
    options = ["--checkpoint", str(_TINY), "--world", "drawn", "--number", "4", "--steps", "8"]
    tasks = ["--tasks", "caption", "grounding", "text_to_image"]
    scores = _scores(tmp_path, *options, *tasks)
    for name, wanted in _TINYS_SCORES.items():
        assert scores[name]["mean"] >= wanted, name


@pytest.mark.usefixtures("storybook_packages")
def test_the_shipped_checkpoint_does_what_was_asked_for(tmp_path: Path) -> None:
    tasks = ["--tasks", "caption", "grounding", "text_to_image"]
    _assert_as_on_the_card(_scores(tmp_path, "--number", str(_FEWEST), "--steps", "8", *tasks))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("storybook_packages")
def test_a_sample_of_other_examples_scores_as_the_card_says(tmp_path: Path) -> None:
    _assert_as_on_the_card(_scores(tmp_path, "--number", "24", "--steps", "15", "--seed", "1"))
