"""Scores of perfect answers are perfect."""

from __future__ import annotations

import random

import pytest

from model.training.world.example import GeneratedAnswer
from tests.model.training.objectives.fixed_batch import WORLD


@pytest.mark.parametrize("task", WORLD.scores)
def test_true_answers_score_one(task: str) -> None:
    for seed in range(3):
        example = WORLD.example(task, random.Random(seed))
        parts = tuple(p if isinstance(p, str) else p.render() for p in example.answer)
        rows = dict(WORLD.scores[task](example, GeneratedAnswer(parts, ended=True)))
        assert set(rows.values()) == {1.0}, rows
        nothing = dict(WORLD.scores[task](example, GeneratedAnswer((), ended=True)))
        assert set(nothing.values()) == {0.0}, nothing
