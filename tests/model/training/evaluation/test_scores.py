"""Scores of perfect answers are perfect."""

from __future__ import annotations

import random

import pytest

from model.training.evaluation.answers import (
    GeneratedAnswer,
)
from model.training.evaluation.scores import SCORES
from tests.model.training.objectives.fixed_batch import WORLD


@pytest.mark.parametrize("task", SCORES)
def test_true_answers_score_one(task: str) -> None:
    for seed in range(3):
        example = WORLD.example(task, random.Random(seed))
        parts = tuple(p if isinstance(p, str) else p.render() for p in example.answer)
        rows = dict(SCORES[task](example, GeneratedAnswer(parts, ended=True), WORLD))
        assert set(rows.values()) == {1.0}, rows
        nothing = dict(SCORES[task](example, GeneratedAnswer((), ended=True), WORLD))
        assert set(nothing.values()) == {0.0}, nothing
